"""Train KE or MEND for a model, and keep the result where the editor finds it.

Training goes on where it was left, after Ctrl-C or kill -9, to the same weights. DATASET is an
installed dataset whose records have rephrased and neighbouring prompts, or ``text`` for plain text
(--corpus). --data reads the papers' flat files for CounterFact and zsRE instead.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from editkit import ConfigError, DatasetError, TrackingError, UsageError
from editkit.storage.digests import blake2b_of
from editkit.storage.strict_yaml import parse_yaml

if TYPE_CHECKING:
    from editkit import LanguageModel, Record
    from editkit_plugins.learned.trained import Settings
    from editkit_plugins.learned.training.checkpoint import Progress
    from editkit_plugins.learned.training.loop import Training
    from editkit_plugins.learned.training.sources import Source

_SUFFIX = {"text": "", "zsre": "-zsre"}
_OTHER = "-cf"
_MOST_TEXTS = 20_000
_LINE_SECONDS = 15.0
_log = logging.getLogger("editkit.train")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("method", choices=("mend", "ke"), help="what is trained")
    add("--model", required=True, metavar="M", help="a registered name, a folder, or a hub id")
    add("--dataset", required=True, metavar="DATASET", help="counterfact, zsre, text, atlas, ...")
    add("--data", type=Path, metavar="FILE", help="a flat training file of the papers")
    add("--corpus", metavar="C", help="texts for --dataset text: a file, package:file, hub:name")
    add("--preset", choices=("fast", "published"), default="fast", help="%(default)s")
    add(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="a=v",
        help="a setting of the training (lr=1e-4), or of the dataset (dataset.path=FILE)",
    )
    add("--limit", type=_positive, metavar="N", help="use only the first N records or texts")
    add("--name", metavar="E", help="editor that finds the result; by the dataset: mend-cf, ke ...")
    add("--out", type=Path, metavar="DIR", help="folder of checkpoint and result")
    add("--dtype", default="float32", help="type of the model's weights (%(default)s)")
    add("--device", default="cpu", help="where the model goes (%(default)s)")
    add(
        "--results",
        type=Path,
        default=Path("editkit-results"),
        metavar="DIR",
        help="folder whose MLflow shows the curves (%(default)s)",
    )
    add("--no-mlflow", action="store_true", help="tell no tracking service")
    add("--fresh", action="store_true", help="start anew, whatever the folder holds")
    add("--quiet", action="store_true", help="no progress")
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Train, save, and keep."""
    from editkit import load_model
    from editkit_plugins.learned.config import kept_folder
    from editkit_plugins.learned.training.checkpoint import FILE
    from editkit_plugins.learned.training.loop import Training

    training_values, dataset_values = _values(args.sets)
    name = args.name or args.method + _SUFFIX.get(args.dataset, _OTHER)
    settings = _settings(args.method, args.preset, training_values)
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    source, digest = _source(args, model, settings, dataset_values)
    kept = kept_folder(name, model.fingerprint)
    folder = args.out or kept
    facts = {
        "editor": name,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dataset": args.dataset,
        "data_digest": digest,
    }
    training = Training(model, source, settings, facts, folder)
    if args.fresh:
        (folder / FILE).unlink(missing_ok=True)
    resumed = training.resume()
    if resumed and not args.quiet:
        _log.info("going on from step %d in %s", training.progress.step, folder)
    track = _tracking(training, None if args.no_mlflow else args.results)
    with _telling(training, quiet=args.quiet) as report:

        def after_each_step(progress: Progress) -> None:
            report(progress)
            track(progress)

        progress = training.run(after_each_step)
    if folder != kept:
        training.save(kept)
    shown = track(progress, again=True)
    _tell(args, training, progress, folder)
    return 0 if shown else TrackingError.exit_code


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


# ---------------------------------------------------------------- what to train on, and how


def _values(sets: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Values of the training's settings, and of the dataset's configuration."""
    own: dict[str, Any] = {}
    dataset: dict[str, Any] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UsageError(f"--set is {text!r}, expected a=v.", hint="For example --set lr=1e-4.")
        into = dataset if key.startswith("dataset.") else own
        into[key.removeprefix("dataset.")] = parse_yaml(value, place=f"--set {key}")
    return own, dataset


def _settings(method: str, preset: str, values: Mapping[str, Any]) -> Settings:
    from editkit_plugins.learned.settings import KeSettings, MendSettings
    from editkit_plugins.learned.training.presets import PRESETS

    schema = MendSettings if method == "mend" else KeSettings
    try:
        return schema.model_validate({**PRESETS[method][preset], **values})
    except ValidationError as error:
        problems = "; ".join(
            f"{'.'.join(map(str, p['loc'])) or 'settings'} is {p['input']!r}: {p['msg']}"
            for p in error.errors(include_url=False)
        )
        known = ", ".join(schema.model_fields)
        raise ConfigError(f"--set: {problems}.", hint=f"Settings of {method}: {known}.") from None


def _source(
    args: argparse.Namespace,
    model: LanguageModel,
    settings: Settings,
    dataset_values: Mapping[str, Any],
) -> tuple[Source, str]:
    """The training data and its digest."""
    from editkit.covariance.corpora import Corpus
    from editkit_plugins.learned.training.sources import RecordSource, TextSource, some

    if args.dataset == "text":
        if args.corpus is None:
            raise UsageError("--dataset text needs texts.", hint="Name them with --corpus.")
        texts = some(Corpus(args.corpus).texts(), args.limit or _MOST_TEXTS)
        return TextSource(model, texts, settings.validation), _digest(texts)
    records = _records(args, dataset_values)[: args.limit]
    source = RecordSource(
        model,
        records,
        settings.validation,
        other_targets=settings.other_targets,
        other_wordings=settings.other_wordings,
    )
    return source, _digest([repr(record) for record in records])


def _records(args: argparse.Namespace, values: Mapping[str, Any]) -> list[Record]:
    from editkit import make_dataset
    from editkit_plugins.learned.training.sources import flat_records

    if args.data is not None:
        if values:
            raise UsageError(
                f"--set dataset.{next(iter(values))} is given, and --data is a file that takes no "
                "values.",
                hint="Write separator and chat into its entries, or name a dataset.",
            )
        return flat_records(args.data)
    if args.dataset == "zsre" and not values:
        raise UsageError(
            "--dataset zsre needs a training file.",
            hint="Name it with --data zsre_train.json, or --set dataset.path=zsre_train.json.",
        )
    loaded = make_dataset(args.dataset, **values).load()
    if not loaded.records:
        raise DatasetError(
            f"dataset {args.dataset!r} has no usable record to train on.",
            hint="Check its configuration with 'editkit describe'.",
        )
    return list(loaded.records)


def _digest(texts: list[str]) -> str:
    return blake2b_of(f"{text}\n" for text in texts)


def _tracking(training: Training, results: Path | None) -> Callable[..., bool]:
    """Tells tracking services of new validations; where they fail, once more when told to."""
    from editkit.benchmark.observers import publish
    from editkit_plugins.learned.training.reporting import report_of

    told: int | None = None  # validations; after resuming, earlier ones are told again
    shown = True

    def track(progress: Progress, *, again: bool = False) -> bool:
        nonlocal told, shown
        new = bool(progress.history) and len(progress.history) != told
        if results is not None and ((new and shown) or (again and not shown)):
            told = len(progress.history)
            shown = "failed" not in publish(report_of(training, results))
        return shown

    return track


# ---------------------------------------------------------------- words


@contextlib.contextmanager
def _telling(training: Training, *, quiet: bool) -> Iterator[Any]:
    """A bar on a terminal, sparse lines elsewhere; every validation is a line of its own."""
    if quiet:
        yield lambda progress: None
        return
    from tqdm import tqdm

    done = training.progress.step
    bar = tqdm(
        total=training.settings.steps,
        initial=done,
        unit="step",
        disable=not sys.stderr.isatty(),
        dynamic_ncols=True,
    )
    told = len(training.progress.history)
    spoken = time.monotonic()

    def report(progress: Progress) -> None:
        nonlocal told, spoken
        bar.update(1)
        if len(progress.history) > told:
            told = len(progress.history)
            bar.write(_line(training, progress), file=sys.stderr)
            spoken = time.monotonic()
        elif bar.disable and time.monotonic() - spoken > _LINE_SECONDS:
            left = progress.seconds / progress.step * (training.settings.steps - progress.step)
            sys.stderr.write(f"step {progress.step}/{training.settings.steps}, {left:.0f} s left\n")
            spoken = time.monotonic()

    try:
        yield report
    finally:
        bar.close()


def _line(training: Training, progress: Progress) -> str:
    row = progress.history[-1]
    scores = "  ".join(f"{n} {100 * row[n]:.1f}" for n in ("ES", "PS", "NS", "S") if n in row)
    best = "  best so far" if progress.best == len(progress.history) - 1 else ""
    pace = progress.seconds / max(progress.step, 1)
    left = pace * (training.settings.steps - progress.step)
    return (
        f"step {progress.step}/{training.settings.steps}  edit {row['edit']:.3f}  locality "
        f"{row['locality']:.4f}  {scores}{best}  ({1 / pace:.1f} steps/s, {left:.0f} s left)"
    )


def _tell(args: argparse.Namespace, training: Training, progress: Progress, folder: Path) -> None:
    best = progress.history[progress.best or 0]
    if args.json:
        document = {
            "schema": 1,
            **training.facts,
            "folder": str(folder),
            "settings": training.settings.model_dump(mode="json"),
            "steps": progress.step,
            "skipped_steps": progress.skipped,
            "seconds": progress.seconds,
            "validation": best,
            "history": progress.history,
        }
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    name = training.facts["editor"]
    scores = "  ".join(
        f"{n} {100 * best[n]:.1f}" if n in ("ES", "PS", "NS", "S") else f"{n} {best[n]:.4f}"
        for n in ("S", "ES", "PS", "NS", "edit", "locality")
        if n in best
    )
    sys.stdout.write(
        f"{name} for {training.facts['model']}: best at step {best['step']:.0f} of "
        f"{progress.step}, {progress.seconds:.0f} s of training\n  validation: {scores}\n"
        f"  {folder}\n"
    )
    if progress.skipped:
        sys.stdout.write(f"  {progress.skipped} steps were not finite and were skipped\n")
    sys.stdout.write(
        f"Try it: editkit run-benchmark --model {shlex.quote(args.model)} --editor {name}\n"
    )
