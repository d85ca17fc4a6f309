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

from editkit.cli.arguments import add_flag, add_flags, at_least, positive
from editkit.cli.signals import terminable
from editkit.covariance.corpora import Order
from editkit.errors import ConfigError
from editkit.progress import show_progress
from editkit.terminal import aligned

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.covariance.convergence import ConvergenceReport, Health
    from editkit.covariance.corpora import Corpus
    from editkit.covariance.second_moment import SecondMoment
    from editkit.models import LanguageModel

EXIT_SINGULAR = 1
_KEYS = 16
_TEXTS = 256
_log = logging.getLogger("editkit.covariance.second_moment")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("model", metavar="MODEL", help="a registered name, a folder, or a hub id")
    add_flag(parser, "--layer", type=int, required=True, metavar="N", help="layer, from 0")
    add_flag(parser, "--corpus", required=True, metavar="CORPUS", help="texts; see above")
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
        parser, "--corpus-seed", type=int, default=0, metavar="N", help="seed of the random order"
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
        parser, "--records", metavar="DATASET", help="watch the subjects of this dataset's records"
    )
    add_flags(parser, "--dtype", "--device")
    add_flag(
        parser, "--out", default=None, help="folder of the report (default: editkit-statistics)"
    )
    add_flag(parser, "--fresh", help="recompute what is in the cache")
    add_flags(parser, "--quiet", "--json")


def run(args: argparse.Namespace) -> int:
    """Compute and cache the statistic, and print the report."""
    from editkit.covariance.convergence import Convergence, health_of
    from editkit.covariance.second_moment import ROW_TOKENS, cached_second_moment, second_moment
    from editkit.registry.models import load_model

    model = load_model(args.model, dtype=args.dtype, device=args.device)
    path = model.path(args.layer, "mlp_out")
    corpus = dataclasses.replace(_corpus(args.corpus), order=args.order, seed=args.corpus_seed)
    row_tokens = args.row_tokens or ROW_TOKENS
    cached = cached_second_moment(
        model.fingerprint, path, corpus, args.tokens, args.dtype, row_tokens
    )
    if cached is not None and args.fresh:
        cached.unlink()
        cached.with_suffix(".partial").unlink(missing_ok=True)
        cached = None
    keys = _keys(model, path, corpus, args.records, row_tokens)
    watcher = Convergence(keys, args.ridge)
    with terminable(), show_progress(quiet=args.quiet):
        statistic = second_moment(
            model,
            path,
            corpus,
            tokens=args.tokens,
            row_tokens=row_tokens,
            watcher=watcher,
        )
    if args.tokens is not None and statistic.count < args.tokens:
        _log.warning("the corpus has only %s tokens.", f"{statistic.count:,}")
    report = None if cached is not None else watcher.report(statistic)
    health = health_of(statistic, args.ridge)
    facts = {
        "model": model.name,
        "layer": args.layer,
        "module": path,
        "corpus": corpus.source,
        "order": f"random, seed {corpus.seed}" if corpus.shuffled else "stored",
        "row_tokens": row_tokens,
        "tokens": statistic.count,
        "ridge": args.ridge,
        "dtype": args.dtype,
        "was_cached": cached is not None,
    }
    written = _write(args, report, health, facts)
    _print_report(args, statistic, report, health, facts, written)
    return 0 if health.invertible else EXIT_SINGULAR


def _corpus(source: str) -> Corpus:
    """The corpus; the name of an installed dataset means its facts."""
    from editkit.covariance.corpora import Corpus
    from editkit.registry.plugins import default_registry

    if not Path(source).exists() and default_registry().has("dataset", source):
        return Corpus(f"dataset:{source}")
    return Corpus(source)


def _keys(
    model: LanguageModel, path: str, corpus: Corpus, records: str | None, row_tokens: int
) -> Tensor:
    """The keys to watch, (n, D): at the last token of subjects, or in the middle of texts."""
    import torch

    from editkit.covariance.second_moment import keys_of
    from editkit.registry.factories import make_dataset

    rows: list[tuple[int, ...]] = []
    places: list[int] = []
    if records is not None:
        edits = (
            each for record in make_dataset(records).load().records for each in record.requests
        )
        for request in itertools.islice(edits, _KEYS):
            [encoding] = model.read(
                [request.sentence], chat=request.chat, subjects=[request.subject_span]
            )
            model.check_length(encoding)
            rows.append(encoding.ids)
            places.append(encoding.position(request.subject_span, "subject_last"))
    else:
        texts = [text for text, _ in zip(corpus.texts(), range(_TEXTS), strict=False)]
        for encoding in model.encode(texts[:: max(1, len(texts) // _KEYS)], empty=True):
            if ids := encoding.ids[: min(row_tokens, model.context_length)]:
                rows.append(ids)
                places.append(len(ids) // 2)
    if not rows:
        raise ConfigError("the corpus has no text.", hint="Give a corpus with text in it.")
    return torch.cat(
        [
            keys_of(model, [path], [row])[path][place : place + 1]
            for row, place in zip(rows, places, strict=True)
        ]
    )  # (n, D)


# ---------------------------------------------------------------- output


def _write(
    args: argparse.Namespace,
    report: ConvergenceReport | None,
    health: Health,
    facts: dict[str, Any],
) -> list[Path]:
    """Write the report's files; without a report, only if --out was given."""
    from editkit.covariance.convergence import document, draw, write_document

    if report is None and args.out is None:
        return []
    folder = args.out or Path("editkit-statistics")
    written = [folder / "convergence.json"]
    write_document(document(report, health, facts), written[0])
    if report is not None and report.samples:
        written.append(folder / "convergence.png")
        title = f"{facts['model']}, {facts['module']}: {report.keys} keys, ridge {report.ridge:g}"
        draw(report, title, written[1])
    return written


def _print_report(
    args: argparse.Namespace,
    statistic: SecondMoment,
    report: ConvergenceReport | None,
    health: Health,
    facts: dict[str, Any],
    written: list[Path],
) -> None:
    from editkit.covariance.convergence import document, table

    if args.json:
        sys.stdout.write(json.dumps(document(report, health, facts), indent=2) + "\n")
        return
    lines = [
        f"{facts['module']} of {facts['model']}: second moment of {health.neurons:,} neurons over "
        f"{statistic.count:,} tokens of {facts['corpus']}"
    ]
    if facts["was_cached"]:
        lines.append("It was in the cache; --fresh recomputes it, with a report.")
    condition = "" if health.condition is None else f", condition number {health.condition:.3g}"
    lines.append(
        f"{health.silent:,} neurons never fired; with ridge {args.ridge:g} it can "
        f"{f'be inverted{condition}' if health.invertible else 'not be inverted'}."
    )
    if not health.invertible:
        lines.append("Give editors a ridge (1e-3 is common for small models), or use more tokens.")
    text = "\n".join(lines) + "\n"
    if report is not None:
        text += "\n" + aligned(table(report.samples)) if report.samples else ""
        text += f"\n{report.verdict()}\n"
    text += "".join(f"{path}\n" for path in written)
    sys.stdout.write(text)
