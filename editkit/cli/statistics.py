"""Compute the second moment of a layer's keys, and report whether its sample is large enough.

The statistic goes into the cache, where editors find it under the same corpus, order, number of
tokens and row length. The same command resumes after an interruption. CORPUS is a text file
(.txt, .jsonl, .gz), the name of an installed dataset, package:file, package.module:function, or
hub:name[:config[:split]].
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from editkit.cli.arguments import (
    DEFAULT_MODEL,
    add_alternative,
    add_examples,
    add_flag,
    add_flags,
    at_least,
    positive,
    whole,
)
from editkit.cli.pools import add_pool_flags, model_choice, pool_for
from editkit.cli.signals import terminable
from editkit.covariance.corpora import Order
from editkit.progress import show_progress
from editkit.terminal import aligned

if TYPE_CHECKING:
    from editkit.covariance.convergence import ConvergenceReport, Health
    from editkit.covariance.corpora import Corpus
    from editkit.covariance.second_moment import SecondMoment
    from editkit.data_types import EditRequest

EXIT_SINGULAR = 1
_KEYS = 16
_TEXTS = 256
_log = logging.getLogger("editkit.covariance.second_moment")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(parser, "--model", default=DEFAULT_MODEL)
    add_alternative(parser, "--model", metavar="MODEL")
    add_flag(
        parser,
        "--layer",
        also=("--layers",),
        type=whole,
        several=True,
        default=None,
        required=True,
        metavar="N,...",
        help="layers, from 0; several take one pass over the texts",
    )
    add_flag(
        parser,
        "--corpus",
        required=True,
        metavar="FILE|DATASET",
        complete="dataset",
        help="texts; see above",
    )
    add_flag(
        parser,
        "--tokens",
        type=positive,
        metavar="N",
        help="use only the first N tokens (default: all)",
    )
    add_flag(
        parser,
        "--row-tokens",
        type=positive,
        metavar="N",
        help="use only the first N tokens of each text (default: 2048)",
    )
    add_flag(
        parser,
        "--order",
        choices=get_args(Order),
        help="order of the texts: random makes the first N tokens a sample (default: random for "
        "hub:..., stored for others)",
    )
    add_flag(
        parser, "--corpus-seed", type=whole, default=0, metavar="S", help="seed of the random order"
    )
    add_flag(
        parser,
        "--ridge",
        type=at_least(0),
        default=0.0,
        metavar="R",
        help="ridge of the report, in units of the mean diagonal",
    )
    add_flag(
        parser,
        "--records",
        metavar="D",
        complete="dataset",
        help="watch the keys of the subjects in this dataset (default: the keys of the tokens)",
    )
    add_flags(parser, "--device", "--dtype")
    add_flag(
        parser,
        "--out",
        default=None,
        help="folder of the report",
        shown_default="editkit-statistics",
    )
    add_flag(parser, "--fresh", help="recompute what is in the cache")
    add_flags(parser, "--quiet", "--json")
    add_pool_flags(parser)
    add_examples(
        parser,
        "editkit statistics --layer 0 --corpus atlas --tokens 20000",
        "editkit statistics -m gpt2-xl --layer 13,14,15 --corpus texts.txt.gz",
    )


def run(args: argparse.Namespace) -> int:
    """Compute and cache the statistics, and print the report."""
    from editkit.covariance.accumulate import ROW_TOKENS
    from editkit.covariance.bench import NamedModel, Watch, Watched
    from editkit.covariance.convergence import Convergence, health_of
    from editkit.covariance.second_moment import cached_second_moment, second_moments_of_crew
    from editkit.workers.pool import answer_of

    pool, choice = pool_for(args, model_choice(args))
    requests = _requests(args.records)
    corpus = dataclasses.replace(_corpus(args.corpus), order=args.order, seed=args.corpus_seed)
    row_tokens = args.row_tokens or ROW_TOKENS
    recipe = NamedModel(choice.name, choice.dtype, choice.device, choice.device_map)
    layers = list(dict.fromkeys(args.layer))
    with terminable(), pool.opened(recipe) as crew:
        model, fingerprint = crew.about["model"], crew.about["fingerprint"]
        texts = [] if requests else list(itertools.islice(corpus.texts(), _TEXTS))
        watched = answer_of(crew, Watch(layers, requests, texts, row_tokens))
        if not isinstance(watched, Watched):
            raise AssertionError(watched)
        paths, was_cached = list(watched.keys), set()
        for path in paths:
            cached = cached_second_moment(
                fingerprint, path, corpus, args.tokens, args.dtype, row_tokens
            )
            if cached is not None and args.fresh:
                cached.unlink()
                cached.with_suffix(".partial").unlink(missing_ok=True)
            elif cached is not None:
                was_cached.add(path)
        watchers = {path: Convergence(watched.keys[path], args.ridge) for path in paths}
        with show_progress(quiet=args.quiet):
            statistics = second_moments_of_crew(
                crew,
                paths,
                corpus,
                tokens=args.tokens,
                row_tokens=row_tokens,
                watchers=watchers,
                is_local=pool.is_local,
            )
    results = []
    for layer, path in zip(layers, paths, strict=True):
        statistic = statistics[path]
        facts = {
            "model": model,
            "layer": layer,
            "module": path,
            "corpus": corpus.source,
            "order": f"random, seed {corpus.seed}" if corpus.shuffled else "stored",
            "row_tokens": row_tokens,
            "tokens": statistic.count,
            "ridge": args.ridge,
            "dtype": args.dtype,
            "was_cached": path in was_cached,
        }
        report = None if path in was_cached else watchers[path].report(statistic)
        results.append(_Result(statistic, report, health_of(statistic, args.ridge), facts))
    count = results[0].statistic.count
    if args.tokens is not None and count < args.tokens:
        _log.warning("the corpus has only %s tokens.", f"{count:,}")
    _print(args, results, _write(args, results))
    return 0 if all(result.health.invertible for result in results) else EXIT_SINGULAR


def _corpus(source: str) -> Corpus:
    """The corpus; the name of an installed dataset means its facts."""
    from editkit.covariance.corpora import Corpus
    from editkit.registry.plugins import default_registry

    if not Path(source).exists() and default_registry().has("dataset", source):
        return Corpus(f"dataset:{source}")
    return Corpus(source)


def _requests(records: str | None) -> list[EditRequest]:
    """Some of the edits of a dataset, if one is named."""
    from editkit.registry.factories import make_dataset

    if records is None:
        return []
    loaded = make_dataset(records).load().records
    return list(itertools.islice((r for record in loaded for r in record.requests), _KEYS))


# ---------------------------------------------------------------- output


@dataclasses.dataclass(frozen=True)
class _Result:
    """The statistic of a layer.

    Attributes:
        statistic: The statistic.
        report: How it converged; None if it was cached, or is singular.
        health: Its numerical condition.
        facts: Where it is from, for readers.
    """

    statistic: SecondMoment
    report: ConvergenceReport | None
    health: Health
    facts: dict[str, Any]

    @property
    def document(self) -> dict[str, Any]:
        """Everything as plain data for JSON."""
        from editkit.covariance.convergence import document

        return document(self.report, self.health, self.facts)


def _document(results: list[_Result]) -> dict[str, Any]:
    """The document of one layer, or a list with one for each layer."""
    if len(results) == 1:
        return results[0].document
    return {"schema": 1, "layers": [result.document for result in results]}


def _write(args: argparse.Namespace, results: list[_Result]) -> list[Path]:
    """Write the report's files; without any report, only if --out was given."""
    from editkit.covariance.convergence import draw, write_document

    if args.out is None and all(result.report is None for result in results):
        return []
    folder = args.out or Path("editkit-statistics")
    written = [folder / "convergence.json"]
    write_document(_document(results), written[0])
    for result in results:
        report, facts = result.report, result.facts
        if report is not None and report.samples:
            layer = f"-layer-{facts['layer']}" if len(results) > 1 else ""
            written.append(folder / f"convergence{layer}.png")
            title = (
                f"{facts['model']}, {facts['module']}: {report.keys} keys, ridge {report.ridge:g}"
            )
            draw(report, title, written[-1])
    return written


def _print(args: argparse.Namespace, results: list[_Result], written: list[Path]) -> None:
    if args.json:
        sys.stdout.write(json.dumps(_document(results), indent=2) + "\n")
        return
    text = "\n".join(_text(result, args.ridge) for result in results)
    sys.stdout.write(text + "".join(f"{path}\n" for path in written))


def _text(result: _Result, ridge: float) -> str:
    from editkit.covariance.convergence import table

    facts, health, report = result.facts, result.health, result.report
    lines = [
        f"{facts['module']} of {facts['model']}: second moment of {health.neurons:,} neurons over "
        f"{result.statistic.count:,} tokens of {facts['corpus']}"
    ]
    if facts["was_cached"]:
        lines.append("It was in the cache; --fresh recomputes it, with a report.")
    condition = "" if health.condition is None else f", condition number {health.condition:.3g}"
    lines.append(
        f"{health.silent:,} neurons never fired; with ridge {ridge:g} it can "
        f"{f'be inverted{condition}' if health.invertible else 'not be inverted'}."
    )
    if not health.invertible:
        lines.append("Give editors a ridge (1e-3 is common for small models), or use more tokens.")
    text = "\n".join(lines) + "\n"
    if report is not None:
        text += "\n" + aligned(table(report.samples)) if report.samples else ""
        text += f"\n{report.verdict()}\n"
    return text
