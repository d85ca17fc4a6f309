"""Check what a run needs, before any weights are loaded: memory, statistics, disk, versions.

The model may be a folder with nothing but a config.json. The exit code is 1 if something would
stop the run.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shlex
import sys
from typing import TYPE_CHECKING, Any

from editkit.benchmark.inputs import identity_of, n_layers_of
from editkit.benchmark.plan import ConfigResolver
from editkit.benchmark.spec import (
    Benchmark,
    Flags,
    PluginValues,
    apply_flags,
    load_benchmark,
    with_corpus,
)
from editkit.cli.arguments import add_flag, add_flags, parse_sets, positive
from editkit.cli.regime_flags import add_regime_flags, regimes_of
from editkit.registry.config import GUESSED
from editkit.registry.plugins import Registry, default_registry
from editkit.safe_text import one_line
from editkit.terminal import aligned

if TYPE_CHECKING:
    from editkit.doctor.diagnose import Diagnosis, PlannedEditor

EXIT_PROBLEM = 1
_DEFAULT = "atlas"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flags(parser, "--model", "--editor")
    add_flag(parser, "--dtype", default=None)
    add_flag(parser, "--device", default=None)
    add_flag(parser, "--batch", type=positive, metavar="N", help="requests edited together")
    add_regime_flags(parser)
    add_flag(
        parser,
        "--tokens",
        type=positive,
        default=20,
        metavar="N",
        help="length of the longest prompt with its target",
    )
    add_flags(parser, "--corpus", "--set", "--json")


def run(args: argparse.Namespace) -> int:
    """Print the verdict of each check."""
    registry = default_registry()
    benchmark, place = load_benchmark(_DEFAULT, registry)
    flags = Flags(
        editors=args.editor,
        model=args.model,
        dtype=args.dtype,
        device=args.device,
        edits=regimes_of(args),
        sets=parse_sets(args.sets),
    )
    benchmark, values = apply_flags(benchmark, flags)
    values = with_corpus(benchmark, values, args.corpus, registry)
    model = benchmark.model.name
    optional = not args.editor and load_benchmark(_DEFAULT, registry)[0].model.name != model
    editors = _editors(registry, benchmark, values, place, optional=optional)
    from editkit.doctor.diagnose import diagnose

    diagnosis = diagnose(
        registry,
        model,
        editors,
        dtype=benchmark.model.dtype,
        device=benchmark.model.device,
        requests=args.batch or benchmark.batch,
        tokens=args.tokens,
    )
    document = _document(model, diagnosis)
    able = [planned for planned in editors if planned.offer.name not in diagnosis.left_out]
    to_paste = _to_paste(args, benchmark, able)
    document["command"] = to_paste
    text = json.dumps(document, indent=2) if args.json else _text(model, diagnosis, to_paste)
    sys.stdout.write(text.rstrip("\n") + "\n")
    return 0 if diagnosis.sound else EXIT_PROBLEM


def _editors(
    registry: Registry, benchmark: Benchmark, values: PluginValues, place: str, *, optional: bool
) -> list[PlannedEditor]:
    """The chosen editors, each with the configuration that a benchmark would give it."""
    from editkit.doctor.diagnose import PlannedEditor

    model = benchmark.model
    resolver = ConfigResolver(registry, model, identity_of(model), place, values, n_layers_of)
    planned = []
    for i, choice in enumerate(benchmark.editors):
        offer, resolved = resolver.resolve("editor", f"editors.{i}", choice, choice.preset)
        planned.append(
            PlannedEditor(
                offer,
                resolved.config,
                resolved.rule,
                resolved.matched,
                resolved.overridden,
                {
                    field: value
                    for field, value in resolved.values.items()
                    if resolved.sources.get(field) in GUESSED
                },
                optional=optional,
                regimes=choice.edits or benchmark.edits,
            )
        )
    return planned


def _to_paste(args: argparse.Namespace, benchmark: Benchmark, editors: list[PlannedEditor]) -> str:
    """The command that runs these editors with the values that nobody has chosen spelled out."""
    parts = ["editkit run-benchmark"]
    if benchmark.model.name != _DEFAULT:
        parts.append(f"--model {shlex.quote(benchmark.model.name)}")
    for planned in editors:
        name = planned.offer.name
        parts.append(f"--editor {name}")
        for field, value in planned.guessed.items():
            text = "null" if value is None else str(value)
            parts.append(f"--set {shlex.quote(f'editors.{name}.{field}={text}')}")
    for flag in ("dtype", "device", "batch", "corpus"):
        value = getattr(args, flag)
        if value is not None:
            name = f"--{flag}" if flag != "batch" else "--set"
            parts.append(
                f"{name} {shlex.quote(f'batch={value}' if flag == 'batch' else str(value))}"
            )
    for flag in ("joint", "sequential"):
        parts += [f"--{flag} {facts}" for facts in getattr(args, flag)]
    if args.step:
        parts.append(f"--step {args.step}")
    if args.checkpoints:
        parts.append(f"--checkpoints {','.join(map(str, args.checkpoints))}")
    parts += [f"--set {shlex.quote(each)}" for each in args.sets]
    return " \\\n    ".join(parts)


def _text(model: str, diagnosis: Diagnosis, to_paste: str) -> str:
    rows = [(check.verdict, check.topic, check.text) for check in diagnosis.checks]
    problems = sum(check.verdict == "problem" for check in diagnosis.checks)
    warnings = sum(check.verdict == "warning" for check in diagnosis.checks)
    end = f"{problems} problem(s) would stop the run" if problems else "nothing would stop the run"
    return (
        f"{one_line(model)}\n{aligned(rows)}{end}; {warnings} warning(s)\n"
        f"To run it, or to change its values:\n\n    {to_paste}\n"
    )


def _document(model: str, diagnosis: Diagnosis) -> dict[str, Any]:
    return {
        "schema": 1,
        "model": model,
        "ok": diagnosis.sound,
        "checks": [dataclasses.asdict(check) for check in diagnosis.checks],
        "memory": {
            name: {
                **dataclasses.asdict(memory),
                "beyond_base": memory.beyond,
                "peak": memory.peak,
            }
            for name, memory in diagnosis.memory.items()
        },
    }
