"""Show where a model recalls a fact: the strongest sites as text, all of them as heat maps.

With --facts, many facts are traced and averaged by layer and by the role of a token. Each fact is
kept in the store of the output folder as soon as it is traced: interrupted at any time, the same
command goes on.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import ConfigError, TrackingError, UsageError
from editkit.benchmark.progress import counting
from editkit.cli.arguments import positive
from editkit.registry.factories import check_values
from editkit.report.safe_text import spreadsheet_text
from editkit.storage.cache import write_atomically
from editkit.storage.file_names import safe_file_name
from editkit.storage.strict_yaml import parse_yaml
from editkit_plugins.tracing.shown import Shown, save_figures

if TYPE_CHECKING:
    from editkit import LanguageModel, Trace
    from editkit_plugins.tracing.facts import Facts
    from editkit_plugins.tracing.study import Study

_STRONGEST = 3
_DATASET = "dataset."
_NOT_PREDICTED = 1  # exit code
_log = logging.getLogger("editkit.trace")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("--model", required=True, metavar="M", help="a registered name, a folder, or a hub id")
    add("--prompt", metavar="TEXT", help="a sentence up to the answer")
    add("--subject", metavar="TEXT", help="what the sentence is about, as it stands in it")
    add("--answer", metavar="TEXT", help="the answer; what the model predicts by default")
    add(
        "--separator",
        metavar="TEXT",
        help="what stands between prompt and answer; by default what script and prompt ask for",
    )
    add("--chat", action="store_true", help="the prompt is a user's turn in a chat")
    add(
        "--facts", metavar="F", help="average over a JSON file of facts, or a dataset such as atlas"
    )
    add("--limit", type=positive, metavar="N", help="use only the first N facts")
    add("--locator", default="causal-tracing", metavar="L", help="%(default)s")
    add("--preset", metavar="P", help="a preset of the locator")
    add(
        "--set",
        action="append",
        default=[],
        dest="sets",
        metavar="a=v",
        help="set one value of the locator, or with --set dataset.a=v of the dataset of --facts",
    )
    add("--out", type=Path, default=Path("editkit-results"), metavar="DIR", help="%(default)s")
    add("--device", default="cpu", help="where the model goes (%(default)s)")
    add("--dtype", default="float32", help="type of its weights (%(default)s)")
    add("--no-mlflow", action="store_true", help="tell no tracking service")
    add("--json", action="store_true", help="print one JSON document")
    add("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    """Trace one fact or many."""
    one = args.prompt is not None or args.subject is not None
    if one == (args.facts is not None) or (one and None in (args.prompt, args.subject)):
        raise UsageError(
            "give one fact with --prompt and --subject, or many with --facts.",
            hint='For example --prompt "Toyota Corolla is made by" --subject "Toyota Corolla".',
        )
    from editkit import load_model

    values, of_dataset = _values(args.sets)
    if one and of_dataset:
        raise UsageError(
            f"--set {_DATASET}{next(iter(of_dataset))} is given without --facts.",
            hint=f"Name the dataset, for example --facts counterfact --set {_DATASET}path=FILE.",
        )
    _check(args.locator, args.preset, values)
    facts = None
    if not one:
        from editkit_plugins.tracing.facts import facts_of

        facts = facts_of(args.facts, of_dataset, separator=args.separator, chat=args.chat)
        facts.warn()
    model = load_model(args.model, dtype=args.dtype, device=args.device)
    if facts is None:
        return _one(args, model, values)
    return _many(args, model, values, facts)


def _values(sets: list[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """What ``--set`` changes: values of the locator, and of the dataset."""
    values: dict[str, Any] = {}
    of_dataset: dict[str, Any] = {}
    for text in sets:
        key, equals, given = text.partition("=")
        key = key.strip()
        inner = key.removeprefix(_DATASET)
        target = values if inner == key else of_dataset
        path = inner.split(".")
        if not equals or not all(path):
            raise UsageError(
                f"--set is {text!r}, expected a=v.", hint="For example --set window=4."
            )
        for part in path[:-1]:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise ConfigError(f"--set {key}: {part!r} was set to {target!r} before.")
        target[path[-1]] = parse_yaml(given, place=f"--set {key}")
    return values, of_dataset


def _check(locator: str, preset: str | None, values: dict[str, Any]) -> None:
    """Refuse wrong values before the model is loaded.

    Raises:
        ConfigError: With the flag.
        PluginError: There is no such locator.
    """
    try:
        check_values("locator", locator, values, place="--set", preset=preset)
    except ConfigError as error:
        raise ConfigError(error.message.replace("--set.", "--set "), hint=error.hint) from None


def _warn_of_wide_windows(window: object, model: LanguageModel) -> None:
    if isinstance(window, int) and window >= model.n_layers:
        _log.warning(
            "a window of %s layers covers nearly all %d layers of %s; --set window=2 tells them "
            "apart.",
            window,
            model.n_layers,
            model.name,
        )


# ---------------------------------------------------------------- one fact


def _one(args: argparse.Namespace, model: LanguageModel, values: dict[str, Any]) -> int:
    from editkit import Fact, make_locator
    from editkit.tracing.trace import Trace

    fact = Fact(args.prompt, args.subject, args.answer, separator=args.separator, chat=args.chat)
    locator = make_locator(args.locator, model, preset=args.preset, **values)
    _warn_of_wide_windows(getattr(locator.config, "window", None), model)
    [maps] = locator.maps(model, [fact])
    found = Trace(model.name, args.locator, maps)
    about = [args.prompt, args.subject, args.answer, args.preset, sorted(args.sets), args.model]
    about += [args.separator] if args.separator is not None else []
    about += ["chat"] if args.chat else []
    chosen = [args.locator, model.name, args.prompt, args.answer, args.preset, *sorted(args.sets)]
    name = safe_file_name(" ".join(filter(None, chosen)), identity=about)
    files = save_figures({name: found.plot()}, args.out / "traces")
    table = args.out / "traces" / f"{name}.csv"
    frame = found.to_frame()
    texts = frame.select_dtypes(exclude="number").columns
    frame[texts] = frame[texts].map(
        lambda each: spreadsheet_text(each) if isinstance(each, str) else each
    )
    write_atomically(table, frame.to_csv(index=False).encode())
    if args.json:
        _print_json(_document(found), [*files, table])
    else:
        _print_trace(found, [*files, table])
    if not found.predicted:
        _log.warning(
            "%s does not predict %r here: the trace follows an answer that it does not give.",
            model.name,
            found.answer,
        )
        return _NOT_PREDICTED
    return 0


def _document(found: Trace) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": found.model,
        "locator": found.locator,
        "prompt": found.fact.prompt,
        "subject": found.fact.subject,
        "answer": found.answer,
        "predicted": found.predicted,
        "tokens": list(found.maps[0].tokens),
        "baselines": dict(found.maps[0].baselines),
        "neurons": [list(neuron) for each in found.maps for neuron in each.neurons],
        "effects": {each.kind: [list(row) for row in each.scores] for each in found.maps},
    }


def _print_trace(found: Trace, files: list[Path]) -> None:
    lines = [f'"{found.fact.prompt}" -> "{found.answer.strip()}", {found.locator} on {found.model}']
    baselines = found.maps[0].baselines
    shown = [f"{k} {baselines[k]:.3f}" for k in ("clean", "corrupted") if k in baselines]
    if shown:
        lines.append(f"probability of the answer: {', '.join(shown)}")
    for each in found.maps:
        lines.append(f"\nstrongest sites, {each.kind}:")
        lines += [
            f"  {site.effect:+.3f}  layer {site.layer:<3d} token {site.token} {site.text!r}"
            for site in found.strongest(_STRONGEST, each.kind)
        ]
        lines += [
            f"  {effect:+.3f}  layer {layer:<3d} neuron {neuron}"
            for layer, neuron, effect in each.neurons[:_STRONGEST]
        ]
    lines += ["", *map(str, files)]
    sys.stdout.write("\n".join(lines) + "\n")


# ---------------------------------------------------------------- many facts


def _many(
    args: argparse.Namespace, model: LanguageModel, values: dict[str, Any], read: Facts
) -> int:
    from editkit import make_locator
    from editkit_plugins.tracing.study import study

    locator = make_locator(args.locator, model, preset=args.preset, **values)
    _warn_of_wide_windows(getattr(locator.config, "window", None), model)
    facts = read.facts[: args.limit]
    with counting(f"tracing {args.facts}", len(facts), quiet=args.quiet) as report:
        found = study(model, args.locator, locator, facts, args.out, report)
    for case, reason in list(found.failed.items())[:3]:
        _log.warning("fact %d could not be traced: %s", case, reason)
    if not found.kinds:
        raise UsageError(
            found.why_empty(model.name, args.facts), hint="Trace facts that the model knows."
        )
    about = f"{args.locator} {model.name} {Path(args.facts).stem} {len(facts)}"
    name = safe_file_name(about, identity=[found.fingerprint])
    shown = Shown(found, args.locator, model.name, args.facts)
    files = shown.save(args.out / "traces", name)
    if args.json:
        _print_json(_study_document(args, model, found, read.broken), files)
    else:
        _print_study(args, model, found, len(facts), files)
        if read.broken:
            sys.stdout.write(f"{len(read.broken)} broken facts of {args.facts} are left out\n")
    return 0 if args.no_mlflow or shown.tell(args.out, files) else TrackingError.exit_code


def _study_document(
    args: argparse.Namespace, model: LanguageModel, found: Study, broken: Sequence[str]
) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": model.name,
        "locator": args.locator,
        "facts": args.facts,
        "fingerprint": found.fingerprint,
        "known": found.known,
        "unknown": found.unknown,
        "broken": list(broken),
        "failed": {str(case): reason for case, reason in found.failed.items()},
        "baselines": {key: vars(mean) for key, mean in found.baselines.items()},
        "effects": {
            kind: {role: [vars(mean) for mean in layers] for role, layers in roles.items()}
            for kind, roles in found.kinds.items()
        },
        "largest": {
            kind: {
                place: {
                    "effect": vars(each.effect),
                    "probability": each.probability and vars(each.probability),
                }
                for place, each in places.items()
            }
            for kind, places in found.largest.items()
        },
    }


def _print_study(
    args: argparse.Namespace, model: LanguageModel, found: Study, n_facts: int, files: list[Path]
) -> None:
    lines = [
        f"{args.locator} on {model.name}, {found.known} of {n_facts} facts of {args.facts} "
        f"({found.unknown} not known to the model, {len(found.failed)} not traced)"
    ]
    lines += [
        f"{key.replace('_', ' ')}: {mean.mean:.3f} ± {(mean.high - mean.low) / 2:.3f}"
        for key, mean in found.baselines.items()
    ]
    for kind, roles in found.kinds.items():
        lines.append(f"\n{kind}: layer of the largest average effect, by role")
        for role, layers in roles.items():
            best = max(range(len(layers)), key=lambda layer: layers[layer].mean)
            mean = layers[best]
            half = (mean.high - mean.low) / 2
            lines.append(f"  {role:<24}{mean.mean:+.3f} ± {half:.3f}  layer {best}")
        lines.append(f"{kind}: average of each fact's largest effect, in any layer")
        for place, each in found.largest[kind].items():
            half = (each.effect.high - each.effect.low) / 2
            line = f"  {place:<24}{each.effect.mean:+.3f} ± {half:.3f}"
            if each.probability is not None:
                line += f"  probability {each.probability.mean:.3f}"
            lines.append(line)
    lines += ["", *map(str, files)]
    sys.stdout.write("\n".join(lines) + "\n")


# ---------------------------------------------------------------- files


def _print_json(document: dict[str, Any], files: list[Path]) -> None:
    document["files"] = [str(file) for file in files]
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
