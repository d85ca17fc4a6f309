"""Train KE or MEND for a model, and store the result where the editor looks for it.

After Ctrl-C or kill -9, the same command resumes and ends with the same weights. DATASET is an
installed dataset whose records have paraphrase and neighborhood prompts, or ``text`` for plain text
(--corpus). --data reads the papers' flat files for CounterFact and zsRE instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import shlex
import sys
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from editkit import ConfigError, DatasetError, Record, TrackingError, UsageError
from editkit.cli.arguments import (
    DEFAULT_MODEL,
    add_examples,
    add_flag,
    add_flags,
    parse_sets,
    split_section,
)
from editkit.progress import show_progress
from editkit.storage.digests import blake2b_of

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit_plugins.learned.trained import Settings
    from editkit_plugins.learned.training.data import Source
    from editkit_plugins.learned.training.trainer import Progress, Training

_SUFFIX_OF_DATASET = {"text": "", "zsre": "-zsre"}
_DEFAULT_SUFFIX = "-cf"
_MAX_TEXTS = 20_000
_SCORES = ("ES", "PS", "NS", "S")
_log = logging.getLogger("editkit.train")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("method", choices=("mend", "ke"), help="the method to train")
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_flag(parser, "--dataset", required=True, help="counterfact, zsre, text, atlas, ...")
    add_flag(
        parser,
        "--data",
        type=Path,
        metavar="FILE",
        complete="file",
        help="a flat training file of the papers (default: the dataset's own records)",
    )
    add_flag(
        parser,
        "--corpus",
        help="texts for --dataset text: a file, package:file, or hub:name (default: none)",
    )
    add_flag(
        parser,
        "--preset",
        choices=("fast", "published"),
        metavar="P",
        default="fast",
        help="named set of values to start from: fast or published",
    )
    add_flag(
        parser,
        "--set",
        help="a training setting (lr=1e-4), or a setting of the dataset (dataset.path=FILE)",
    )
    add_flag(parser, "--limit", help="use only the first N records or texts (default: all)")
    add_flag(
        parser,
        "--name",
        also=("--editor", "-e"),
        metavar="E",
        complete="editor",
        help="editor to train (default: by dataset, such as mend-cf)",
    )
    add_flag(
        parser,
        "--out",
        default=None,
        help="folder for the checkpoint and the result",
        shown_default="in the cache",
    )
    add_flags(parser, "--device", "--dtype")
    add_flag(
        parser,
        "--results",
        type=Path,
        default=Path("editkit-results"),
        metavar="FOLDER",
        group="output",
        complete="folder",
        help="folder whose MLflow shows the curves",
    )
    add_flag(parser, "--fresh", help="start over, even if the folder has a checkpoint")
    add_flags(parser, "--no-mlflow", "--json", "--quiet")
    add_examples(
        parser,
        "editkit train mend --dataset atlas",
        "editkit train ke -m gpt2-xl --dataset zsre --data zsre_train.jsonl --device cuda",
    )


def run(args: argparse.Namespace) -> int:
    """Train an editor and store it."""
    from editkit import load_model
    from editkit_plugins.learned.config import trained_folder
    from editkit_plugins.learned.training.trainer import CHECKPOINT_FILE, Training

    training_values, dataset_values = split_section(parse_sets(args.sets), "dataset")
    name = args.name or args.method + _SUFFIX_OF_DATASET.get(args.dataset, _DEFAULT_SUFFIX)
    settings = _settings(args.method, args.preset, training_values)
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    source, digest = _source(args, model, settings, dataset_values)
    cached = trained_folder(name, model.fingerprint)
    folder = args.out or cached
    facts = {
        "editor": name,
        "model": model.name,
        "model_fingerprint": model.fingerprint,
        "dataset": args.dataset,
        "data_digest": digest,
    }
    training = Training(model, source, settings, facts, folder)
    if args.fresh:
        (folder / CHECKPOINT_FILE).unlink(missing_ok=True)
    resumed = training.resume()
    if resumed and not args.quiet:
        _log.info("resuming from step %d in %s", training.progress.step, folder)
    tracker = _Tracker(training, None if args.no_mlflow else args.results)
    show_validations = _validations_shown(training, quiet=args.quiet)

    def after_step(progress: Progress) -> None:
        show_validations(progress)
        tracker.update(progress)

    with show_progress(quiet=args.quiet):
        progress = training.run(after_step)
    if folder != cached:
        training.save(cached)
    tracker.retry(progress)
    _print_result(args, training, progress, folder)
    return TrackingError.exit_code if tracker.failed else 0


# ---------------------------------------------------------------- settings and data


def _settings(method: str, preset: str, values: Mapping[str, Any]) -> Settings:
    from editkit_plugins.learned.settings import PRESETS, KeSettings, MendSettings

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
    from editkit_plugins.learned.training.data import RecordSource, TextSource

    if args.dataset == "text":
        if args.corpus is None:
            raise UsageError("--dataset text needs texts.", hint="Name a corpus with --corpus.")
        texts = list(islice(Corpus(args.corpus).texts(), args.limit or _MAX_TEXTS))
        return TextSource(model, texts, settings.validation), _digest(texts)
    records = _records(args, dataset_values)[: args.limit]
    source = RecordSource(
        model,
        records,
        settings.validation,
        other_targets=settings.other_targets,
        other_wordings=settings.other_wordings,
    )
    return source, _digest([_spelled_out(record) for record in records])


def _spelled_out(value: Any) -> str:
    """A record with every field that training reads: what the digest covers.

    Further edits are included only if there are some, so that earlier digests stay the same.
    """
    if dataclasses.is_dataclass(value):
        names = [field.name for field in dataclasses.fields(value)]
        if isinstance(value, Record):
            unread = {"consequences", "aliases"} | ({"also"} if not value.also else set())
            names = [name for name in names if name not in unread]
        fields = ", ".join(f"{name}={_spelled_out(getattr(value, name))}" for name in names)
        return f"{type(value).__name__}({fields})"
    if isinstance(value, Mapping):
        return f"{{{', '.join(f'{key!r}: {_spelled_out(each)}' for key, each in value.items())}}}"
    if isinstance(value, tuple):
        return f"({', '.join(map(_spelled_out, value))}{',' * (len(value) == 1)})"
    return repr(value)


def _records(args: argparse.Namespace, values: Mapping[str, Any]) -> list[Record]:
    from editkit import make_dataset
    from editkit_plugins.learned.training.data import flat_records

    if args.data is not None:
        if values:
            raise UsageError(
                f"--set dataset.{next(iter(values))} does not apply to --data, which has no "
                "configuration.",
                hint="Write separator and chat into the file's entries, or use a dataset.",
            )
        return flat_records(args.data)
    if args.dataset == "zsre" and not values:
        raise UsageError(
            "--dataset zsre needs a training file.",
            hint="Give it with --data zsre_train.json, or --set dataset.path=zsre_train.json.",
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


class _Tracker:
    """Sends the training to tracking services after each validation.

    Args:
        training: The training.
        out: Folder where a tracking service may keep its files. None: no tracking.
    """

    def __init__(self, training: Training, out: Path | None) -> None:
        self._training = training
        self._out = out
        self._n_sent: int | None = None  # validations; after resuming, earlier ones are sent again
        self.failed = False

    def update(self, progress: Progress) -> None:
        """Send a new validation, unless an earlier one could not be sent."""
        if progress.history and len(progress.history) != self._n_sent and not self.failed:
            self._n_sent = len(progress.history)
            self._send()

    def retry(self, progress: Progress) -> None:
        """Send what is not sent yet, once more after a failure."""
        if self.failed:
            self._send()
        else:
            self.update(progress)

    def _send(self) -> None:
        from editkit.benchmark.observers import FAILED, publish

        if self._out is not None:
            self.failed = FAILED in publish(self._training.report(self._out))


# ---------------------------------------------------------------- output


def _validations_shown(training: Training, *, quiet: bool) -> Callable[[Progress], None]:
    """Writes a line for each new validation."""
    from tqdm import tqdm

    n_shown = len(training.progress.history)

    def show(progress: Progress) -> None:
        nonlocal n_shown
        if len(progress.history) > n_shown:
            n_shown = len(progress.history)
            if not quiet:
                tqdm.write(_validation_line(training, progress), file=sys.stderr)  # above a bar

    return show


def _validation_line(training: Training, progress: Progress) -> str:
    row = progress.history[-1]
    scores = "  ".join(f"{n} {100 * row[n]:.1f}" for n in _SCORES if n in row)
    best = "  best so far" if progress.best == len(progress.history) - 1 else ""
    seconds_per_step = progress.seconds / max(progress.step, 1)
    left = seconds_per_step * (training.settings.steps - progress.step)
    return (
        f"step {progress.step}/{training.settings.steps}  edit {row['edit']:.3f}  locality "
        f"{row['locality']:.4f}  {scores}{best}  ({1 / seconds_per_step:.1f} steps/s, "
        f"{left:.0f} s left)"
    )


def _print_result(
    args: argparse.Namespace, training: Training, progress: Progress, folder: Path
) -> None:
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
        f"{n} {100 * best[n]:.1f}" if n in _SCORES else f"{n} {best[n]:.4f}"
        for n in ("S", "ES", "PS", "NS", "edit", "locality")
        if n in best
    )
    sys.stdout.write(
        f"{name} for {training.facts['model']}: best at step {best['step']:.0f} of "
        f"{progress.step}, {progress.seconds:.0f} s of training\n  validation: {scores}\n"
        f"  {folder}\n"
    )
    if progress.skipped:
        sys.stdout.write(f"  skipped {progress.skipped} steps that were not finite\n")
    sys.stdout.write(
        f"Try it: editkit run-benchmark --model {shlex.quote(args.model)} --editor {name}\n"
    )
