"""Compare the texts of two editors' models in a browser on this machine.

The page shows two texts at a time, blind and in random order, and asks which one agrees better with
the edited fact and which one is more fluent. Every answer is saved at once. Ctrl-C stops the server
and prints the odds, as --report does.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from editkit import UsageError
from editkit.benchmark.store import keep_rating, ratings_in, runs_in
from editkit.cli.arguments import add_alternative, add_examples, add_flag
from editkit_plugins.rating.comparisons import chosen_pair, comparisons
from editkit_plugins.rating.odds import Judgement, judgements, report
from editkit_plugins.rating.server import HOST, RatingServer


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the options of ``editkit rate``."""
    add_flag(parser, "--editor", help="the two editors", shown_default="the only two")
    add_flag(parser, "--out", group="", help="folder of results")
    add_alternative(parser, "--out", metavar="FOLDER")
    add_flag(parser, "--limit", default=50, help="compare N pairs of texts")
    add_flag(parser, "--seed", help="seed of the order and the sides")
    add_flag(parser, "--rater", default="anonymous", metavar="NAME", help="who rates")
    add_flag(parser, "--port", default=0, help="port to listen on, 0 for any free port")
    add_flag(parser, "--report", action="store_true", help="only print the odds so far")
    add_flag(parser, "--json", help="print the odds as one JSON document")
    add_examples(parser, "editkit rate -e rome,ft --rater ada")


def run(args: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, then print the odds.

    Raises:
        UsageError: There is nothing to compare, or the port is in use.
        StoreError: The store cannot be used.
    """
    if not args.report:
        _serve(args)
    results = judgements(runs_in(args.out), ratings_in(args.out))
    if args.json:
        document = {"schema": 1, "judgements": [_plain(judgement) for judgement in results]}
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
    else:
        sys.stdout.write(report(results))
    return 0


def _serve(args: argparse.Namespace) -> None:
    pair = chosen_pair(args.out, args.editor)
    chosen = comparisons(pair, limit=args.limit, seed=args.seed)
    try:
        server = RatingServer(
            args.port,
            chosen,
            rater=args.rater,
            known=ratings_in(args.out),
            keep=functools.partial(keep_rating, args.out),
        )
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"cannot listen on port {args.port} of {HOST}: {error}.",
            hint="Choose another port with --port, or omit it.",
        ) from error
    with server, _stop_signals() as stopped:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        sys.stderr.write(
            f"{len(chosen)} pairs of texts, {server.done} already rated by {args.rater}. "
            "Answers are saved at once; press Ctrl-C to stop.\n"
        )
        sys.stdout.write(f"{server.url}\n")
        sys.stdout.flush()
        stopped.wait()
        server.shutdown()
        thread.join()


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that Ctrl-C and SIGTERM set."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopped.set()

    before = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _plain(judgement: Judgement) -> dict[str, object]:
    return {
        "benchmark": judgement.run.benchmark,
        "model": judgement.run.model["name"],
        "editors": list(judgement.labels),
        "ratings": judgement.ratings,
        "texts": judgement.texts,
        "raters": judgement.raters,
        "odds": {name: dataclasses.asdict(odds) for name, odds in judgement.odds.items()},
    }
