"""Compute the second moment of a layer's keys, and tell whether its sample is large enough.

The statistic goes into the cache, where editors find it under the same corpus, order, number of
tokens and length of rows. A computation that was killed resumes where it was. CORPUS is a text file
(.txt, .jsonl, .gz), the name of an installed dataset, package:file, package.module:function, or
hub:name[:config[:split]].
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from editkit.cli.arguments import positive
from editkit.cli.signals import terminable
from editkit.covariance.corpora import Order
from editkit.errors import ConfigError, UsageError
from editkit.report.terminal import aligned

if TYPE_CHECKING:
    from torch import Tensor

    from editkit.covariance.convergence import Health, Report
    from editkit.covariance.corpora import Corpus
    from editkit.covariance.second_moment import SecondMoment
    from editkit.models import LanguageModel

EXIT_SINGULAR = 1
_KEYS = 16
_TEXTS = 256
_LINE_SECONDS = 15.0
_log = logging.getLogger("editkit.covariance.second_moment")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add = parser.add_argument
    add("model", metavar="MODEL", help="a registered name, a folder, or a hub id")
    add("--layer", type=int, required=True, metavar="N", help="block, from 0")
    add("--corpus", required=True, metavar="CORPUS", help="texts; see above")
    add("--tokens", type=positive, metavar="N", help="use the first N tokens (all)")
    add("--row-tokens", type=positive, metavar="N", help="run the first N tokens of a text (2048)")
    add(
        "--order",
        choices=get_args(Order),
        help="order of the texts: random makes the first N tokens a sample (random for hub:...)",
    )
    add("--corpus-seed", type=int, default=0, metavar="N", help="of the random order (%(default)s)")
    add("--ridge", type=float, default=0.0, metavar="R", help="ridge of the report (%(default)g)")
    add("--records", metavar="DATASET", help="watch the subjects of this dataset's records")
    add("--dtype", default="float32", help="type of the model's weights (%(default)s)")
    add("--device", default="cpu", help="where the model goes (%(default)s)")
    add("--out", type=Path, metavar="DIR", help="folder of the report (editkit-statistics)")
    add("--fresh", action="store_true", help="compute again what is in the cache")
    add("--quiet", action="store_true", help="no progress")
    add("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Compute, keep, and report."""
    if args.ridge < 0:
        raise UsageError(f"--ridge is {args.ridge:g}, expected 0 or more.")
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
    with terminable(), _Bar(args.tokens, quiet=args.quiet or cached is not None) as bar:
        statistic = second_moment(
            model,
            path,
            corpus,
            tokens=args.tokens,
            row_tokens=row_tokens,
            watcher=watcher,
            progress=bar.advance,
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
    _tell(args, statistic, report, health, facts, written)
    return 0 if health.invertible else EXIT_SINGULAR


def _corpus(source: str) -> Corpus:
    """The corpus; the bare name of an installed dataset stands for its facts."""
    from editkit.covariance.corpora import Corpus
    from editkit.registry.plugins import default_registry

    if not Path(source).exists() and default_registry().has("dataset", source):
        return Corpus(f"dataset:{source}")
    return Corpus(source)


def _keys(
    model: LanguageModel, path: str, corpus: Corpus, records: str | None, row_tokens: int
) -> Tensor:
    """The keys to watch: of subjects at their last token, or in the middle of some texts."""
    import torch

    from editkit.covariance.second_moment import keys_of
    from editkit.registry.factories import make_dataset

    rows: list[tuple[int, ...]] = []
    places: list[int] = []
    if records is not None:
        for record in make_dataset(records).load().records[:_KEYS]:
            request = record.request
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
        raise ConfigError("the corpus holds no text.", hint="Give a corpus with text in it.")
    return torch.cat(
        [
            keys_of(model, path, [row])[place : place + 1]
            for row, place in zip(rows, places, strict=True)
        ]
    )  # (n, D)


# ---------------------------------------------------------------- words


class _Bar:
    """Tokens done: a bar on a terminal, sparse lines elsewhere, or nothing."""

    def __init__(self, total: int | None, *, quiet: bool) -> None:
        self._total, self._quiet = total, quiet
        self._bar: Any = None
        self._first: int | None = None
        self._started = self._spoken = time.monotonic()

    def __enter__(self) -> _Bar:
        if not self._quiet and sys.stderr.isatty():
            from tqdm import tqdm

            self._bar = tqdm(total=self._total, unit="token", unit_scale=True, dynamic_ncols=True)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def advance(self, count: int) -> None:
        """So many tokens are in the sum."""
        now = time.monotonic()
        if self._first is None:  # the first batch of this process; earlier ones were kept
            self._first, self._started = count, now
        if self._bar is not None:
            self._bar.update(count - self._bar.n)
        elif not self._quiet and now - self._spoken > _LINE_SECONDS:
            self._spoken = now
            pace = (count - self._first) / max(now - self._started, 1e-9)
            left = f", {(self._total - count) / pace:.0f} s left" if self._total and pace else ""
            sys.stderr.write(f"{count:,} tokens, {pace:,.0f} a second{left}\n")


def _write(
    args: argparse.Namespace, report: Report | None, health: Health, facts: dict[str, Any]
) -> list[Path]:
    """The files of the report; without a report only those that were asked for."""
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


def _tell(
    args: argparse.Namespace,
    statistic: SecondMoment,
    report: Report | None,
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
        lines.append("It was in the cache; --fresh computes it again, with a report.")
    condition = "" if health.condition is None else f", condition number {health.condition:.3g}"
    lines.append(
        f"{health.silent:,} neurons never fired; with ridge {args.ridge:g} it can "
        f"{f'be inverted{condition}' if health.invertible else 'not be inverted'}."
    )
    if not health.invertible:
        lines.append("Give editors a ridge (1e-3 is usual on small models), or use more tokens.")
    text = "\n".join(lines) + "\n"
    if report is not None:
        text += "\n" + aligned(table(report.samples)) if report.samples else ""
        text += f"\n{report.verdict()}\n"
    text += "".join(f"{path}\n" for path in written)
    sys.stdout.write(text)
