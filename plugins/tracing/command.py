"""Show where a model recalls a fact: the strongest sites as text, all sites as heat maps.

With --facts, trace many facts and average by layer and by the role of a token. Every traced fact is
stored in the output folder at once; run the same command again to resume after an interruption.
"""

from __future__ import annotations

import argparse
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import Config, ConfigError, TrackingError, UsageError
from editkit.cli.arguments import (
    DEFAULT_MODEL,
    add_alternative,
    add_examples,
    add_flag,
    add_flags,
    parse_sets,
    split_section,
)
from editkit.cli.pools import add_pool_flags, model_choice, pool_for
from editkit.cli.signals import terminable
from editkit.progress import show_progress
from editkit.registry.factories import check_values
from editkit.safe_text import spreadsheet_text
from editkit.storage.cache import write_atomically
from editkit.storage.file_names import safe_file_name
from editkit.validation import nested_values

if TYPE_CHECKING:
    from editkit import LanguageModel, Trace
    from editkit.benchmark.aggregate import Estimate
    from editkit.benchmark.spec import ModelChoice
    from editkit.records.facts import Facts
    from editkit.workers.pool import Pool
    from editkit_plugins.tracing.averages import AverageTrace

EXIT_NOT_PREDICTED = 1
_N_STRONGEST = 3
_log = logging.getLogger("editkit.trace")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(parser, "--prompt", metavar="TEXT", help=argparse.SUPPRESS)
    add_alternative(parser, "--prompt", metavar="PROMPT", help="a sentence up to the answer")
    add_flag(parser, "--subject", metavar="S", help="the subject, spelled as in the prompt")
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_flag(
        parser,
        "--with-subject",
        metavar="TEXT",
        help="corrupt the prompt by this subject, of any length, instead of noise (default: noise)",
    )
    add_flag(
        parser,
        "--answer",
        metavar="TEXT",
        help="the answer to trace (default: the model's prediction)",
    )
    add_flags(parser, "--separator", "--chat")
    add_flag(
        parser,
        "--facts",
        metavar="FILE|DATASET",
        complete="dataset",
        help="average over a JSON file of facts, or a dataset such as atlas",
    )
    add_flag(parser, "--limit", help="use only the first N facts (default: all)")
    add_flag(
        parser,
        "--locator",
        default="causal-tracing",
        metavar="L",
        complete="locator",
        help="what traces",
    )
    add_flag(parser, "--preset")
    add_flag(
        parser,
        "--set",
        help="set one value of the locator, or of the dataset with dataset.A=V; repeatable",
    )
    add_flags(parser, "--out", "--device", "--dtype", "--no-mlflow", "--json", "--quiet")
    add_pool_flags(parser)
    add_examples(
        parser,
        'editkit trace "The capital of Kenya is" --subject Kenya',
        "editkit trace --facts atlas -n 20",
    )


def run(args: argparse.Namespace) -> int:
    """Trace one fact or many; the exit code."""
    single = args.prompt is not None or args.subject is not None
    if single == (args.facts is not None) or (single and None in (args.prompt, args.subject)):
        missing = "--subject" if args.subject is None else "PROMPT"
        raise UsageError(
            f"{missing} is missing."
            if single and args.facts is None
            else "give one fact, PROMPT and --subject, or many with --facts.",
            hint='For example: editkit trace "The capital of Kenya is" --subject Kenya',
        )
    from editkit import load_model

    locator_sets, dataset_sets = split_section(parse_sets(args.sets), "dataset")
    if single and dataset_sets:
        raise UsageError(
            f"--set dataset.{next(iter(dataset_sets))} needs --facts.",
            hint="Name the dataset, for example --facts counterfact --set dataset.path=FILE.",
        )
    if single and args.ray is not None:
        raise UsageError(
            "--ray needs --facts: a single fact is traced in this process.",
            hint="Leave out --ray.",
        )
    pool, choice = pool_for(args, model_choice(args))
    values = _with_other_subject(args, nested_values(locator_sets))
    dataset_values = nested_values(dataset_sets, place="--set dataset.")
    _check(args.locator, args.preset, values)
    if single:
        model = load_model(args.model, dtype=args.dtype, device=args.device)
        return _trace_one(args, model, values)
    from editkit.records.facts import read_facts

    facts = read_facts(args.facts, dataset_values, separator=args.separator, chat=args.chat)
    facts.warn()
    return _trace_many(args, values, facts, pool, choice)


def _with_other_subject(args: argparse.Namespace, values: dict[str, Any]) -> dict[str, Any]:
    """Values of the locator, with those of ``--with-subject`` added."""
    if args.with_subject is None:
        return values
    added = {
        "corruption": "substitute",
        "substitutes": (args.with_subject,),
        "substitute_length": "any",
    }
    if args.prompt is None:
        raise UsageError(
            "--with-subject needs a single fact.",
            hint="With --facts, --set corruption=substitute --set substitute_length=any takes the "
            "subjects of the other facts.",
        )
    try:
        check_values("locator", args.locator, added, place="--with-subject")
    except ConfigError:
        raise UsageError(
            f"--with-subject needs a locator that corrupts the subject, and {args.locator} does "
            "not.",
            hint="Leave it out, or use --locator causal-tracing.",
        ) from None
    if twice := sorted(added.keys() & values.keys()):
        raise UsageError(
            f"--with-subject and --set {twice[0]} both choose the corruption.",
            hint="Leave out one of them.",
        )
    return values | added


def _check(locator: str, preset: str | None, values: dict[str, Any]) -> None:
    """Refuse wrong values before the model is loaded.

    Raises:
        ConfigError: A value is wrong; the message names its flag.
        PluginError: The locator is not installed.
    """
    try:
        check_values("locator", locator, values, place="--set", preset=preset)
    except ConfigError as error:
        raise ConfigError(error.message.replace("--set.", "--set "), hint=error.hint) from None


def _warn_if_window_is_wide(config: Config, n_layers: int, model: str) -> None:
    window = getattr(config, "window", None)
    if isinstance(window, int) and window >= n_layers:
        _log.warning(
            "a window of %s layers covers nearly all %d layers of %s; leave it out for one that "
            "suits the depth, or use a smaller one, such as --set window=2.",
            *(window, n_layers, model),
        )


# ---------------------------------------------------------------- one fact


def _trace_one(args: argparse.Namespace, model: LanguageModel, values: dict[str, Any]) -> int:
    from editkit import Fact, make_locator
    from editkit.figures import save_figures
    from editkit.tracing.trace import Trace

    fact = Fact(args.prompt, args.subject, args.answer, separator=args.separator, chat=args.chat)
    locator = make_locator(args.locator, model, preset=args.preset, **values)
    _warn_if_window_is_wide(locator.config, model.n_layers, model.name)
    [maps] = locator.maps(model, [fact])
    trace = Trace(model.name, args.locator, maps)
    identity = [args.prompt, args.subject, args.answer, args.preset, sorted(args.sets), args.model]
    identity += [args.separator] if args.separator is not None else []
    identity += ["chat"] if args.chat else []
    identity += [f"with {args.with_subject}"] if args.with_subject else []
    words = [args.locator, model.name, args.prompt, args.answer, args.preset, *sorted(args.sets)]
    words += [args.with_subject]
    name = safe_file_name(" ".join(filter(None, words)), identity=identity)
    files = save_figures({name: trace.plot()}, args.out / "traces")
    table = args.out / "traces" / f"{name}.csv"
    frame = trace.to_frame()
    texts = frame.select_dtypes(exclude="number").columns
    frame[texts] = frame[texts].map(
        lambda each: spreadsheet_text(each) if isinstance(each, str) else each
    )
    write_atomically(table, frame.to_csv(index=False).encode())
    if args.json:
        _print_json(_trace_document(trace), [*files, table])
    else:
        _print_trace(trace, [*files, table])
    if not trace.predicted:
        _log.warning(
            "%s does not predict %r here, so this is the trace of another answer than the model's.",
            *(model.name, trace.answer),
        )
        return EXIT_NOT_PREDICTED
    return 0


def _trace_document(trace: Trace) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": trace.model,
        "locator": trace.locator,
        "prompt": trace.fact.prompt,
        "subject": trace.fact.subject,
        "answer": trace.answer,
        "predicted": trace.predicted,
        "tokens": list(trace.maps[0].tokens),
        "baselines": dict(trace.maps[0].baselines),
        "windows": {each.kind: each.window for each in trace.maps if each.window},
        "replacements": list(trace.maps[0].replacements),
        "counterparts": list(trace.maps[0].counterparts),
        "neurons": [list(neuron) for each in trace.maps for neuron in each.neurons],
        "effects": {each.kind: [list(row) for row in each.scores] for each in trace.maps},
    }


def _print_trace(trace: Trace, files: list[Path]) -> None:
    lines = [f"{trace.title}, {trace.locator} on {trace.model}"]
    baselines = trace.maps[0].baselines
    known = [f"{k} {baselines[k]:.3f}" for k in ("clean", "corrupted") if k in baselines]
    if known:
        lines.append(f"probability of the answer: {', '.join(known)}")
    for each in trace.maps:
        window = f" in windows of {each.window} layers" if each.window else ""
        lines.append(f"\nstrongest sites, {each.kind}{window}:")
        lines += [
            f"  {site.effect:+.3f}  layer {site.layer:<3d} token {site.token} {site.text!r}"
            for site in trace.strongest(_N_STRONGEST, each.kind)
        ]
        lines += [
            f"  {effect:+.3f}  layer {layer:<3d} neuron {neuron}"
            for layer, neuron, effect in each.neurons[:_N_STRONGEST]
        ]
    _print_text(lines, files)


# ---------------------------------------------------------------- many facts


def _trace_many(
    args: argparse.Namespace,
    values: dict[str, Any],
    read: Facts,
    pool: Pool,
    model: ModelChoice,
) -> int:
    from editkit_plugins.tracing.bench import NamedModel, NamedTools
    from editkit_plugins.tracing.stored_traces import adapted_study, traced_study

    facts = read.facts[: args.limit]
    tools = NamedTools(args.locator, values, args.preset)
    opened = pool.opened(
        NamedModel(model), distributions=tools.distributions(), jobs=max(1, len(facts))
    )
    with terminable(), opened as crew, show_progress(quiet=args.quiet):
        study = adapted_study(crew, tools, facts, source=args.facts)
        _warn_if_window_is_wide(study.adapted.config, crew.about["n_layers"], args.model)
        average = traced_study(crew, study, args.out)
    for case, reason in list(average.failed.items())[:3]:
        _log.warning("fact %d could not be traced: %s", case, reason)
    if not average.effects:
        raise UsageError(average.why_empty, hint="Trace facts that the model knows.")
    words = f"{args.locator} {average.model} {Path(args.facts).stem} {len(facts)}"
    name = safe_file_name(words, identity=[average.fingerprint])
    files = average.save(args.out / "traces", name)
    if args.json:
        _print_json(_average_document(average, read.broken), files)
    else:
        _print_average(average, len(facts), files)
        if read.broken:
            sys.stdout.write(f"left out: {len(read.broken)} broken facts of {args.facts}\n")
    published = args.no_mlflow or average.publish(args.out, files)
    return 0 if published else TrackingError.exit_code


def _average_document(average: AverageTrace, broken: Sequence[str]) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": average.model,
        "locator": average.locator,
        "facts": average.facts,
        "fingerprint": average.fingerprint,
        "known": average.known,
        "unknown": average.unknown,
        "broken": list(broken),
        "failed": {str(case): reason for case, reason in average.failed.items()},
        "baselines": {key: _interval(mean) for key, mean in average.baselines.items()},
        "windows": dict(average.windows),
        "effects": {
            kind: {role: [_interval(mean) for mean in layers] for role, layers in roles.items()}
            for kind, roles in average.effects.items()
        },
        "largest": {
            kind: {
                place: {
                    "effect": _interval(each.effect),
                    "probability": each.probability and _interval(each.probability),
                }
                for place, each in places.items()
            }
            for kind, places in average.largest.items()
        },
    }


def _interval(mean: Estimate) -> dict[str, float | None]:
    return {"mean": mean.mean, "low": mean.ci_low, "high": mean.ci_high, "n": mean.n}


def _print_average(average: AverageTrace, n_facts: int, files: list[Path]) -> None:
    lines = [
        f"{average.title}: {average.known} of {n_facts} facts of {average.facts} "
        f"({average.unknown} unknown to the model, {len(average.failed)} failed)"
    ]
    lines += [
        f"{key.replace('_', ' ')}: {mean.printed('.3f')}" for key, mean in average.baselines.items()
    ]
    for kind, roles in average.effects.items():
        window = average.windows.get(kind)
        restored = f"{kind} in windows of {window} layers" if window else kind
        lines.append(f"\n{restored}: layer of the largest average effect, by role")
        for role, layers in roles.items():
            best = max(range(len(layers)), key=lambda layer: layers[layer].mean)
            mean = layers[best]
            lines.append(f"  {role:<24}{mean.printed('+.3f')}  layer {best}")
        lines.append(f"{kind}: average of each fact's largest effect, in any layer")
        for place, each in average.largest[kind].items():
            line = f"  {place:<24}{each.effect.printed('+.3f')}"
            if each.probability is not None:
                line += f"  probability {each.probability.mean:.3f}"
            lines.append(line)
    _print_text(lines, files)


# ---------------------------------------------------------------- output


def _print_text(lines: list[str], files: list[Path]) -> None:
    sys.stdout.write("\n".join([*lines, "", *map(str, files)]) + "\n")


def _print_json(document: dict[str, Any], files: list[Path]) -> None:
    document["files"] = [str(file) for file in files]
    sys.stdout.write(json.dumps(document, indent=2) + "\n")
