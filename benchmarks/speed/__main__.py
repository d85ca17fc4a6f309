"""Measure editkit's speed: one command per question.

device      on one GPU (or CPU) within some minutes; flags alone ask this question
plain       against the plain way of the same work, and against this machine's limit
published   against ROME's published code
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import above, positive
from editkit.errors import EditkitError
from editkit_benchmarks.speed import names

if TYPE_CHECKING:
    from editkit_benchmarks.speed.cases import Case
    from editkit_benchmarks.speed.limits import Rates

Answer = Callable[[argparse.Namespace, Callable[[str], None]], dict[str, Any]]
"""Measures, and returns the JSON document."""


def measure(case: Case, repeats: int, rates: Rates) -> dict[str, Any]:
    """Time both ways alternately, best of ``repeats``, after an untimed run of each."""
    import torch

    from editkit_benchmarks.speed.timing import best_of, now

    ways = case.make()
    pairs = zip(ways.plain(), ways.fast(), strict=True)
    largest = max(abs(a - b) for a, b in pairs)
    clock = "cpu" if torch.get_num_threads() == 1 else "wall"
    best = best_of({"fast": ways.fast, "plain": ways.plain}, repeats=repeats, clock=now(clock))
    fast_s, plain_s = best["fast"] / ways.n_fast, best["plain"] / ways.n_plain
    result = {
        "case": case.name,
        "title": case.title,
        "clock": clock,
        "fast_ms": 1000 * fast_s,
        "plain_ms": 1000 * plain_s,
        "ratio": plain_s / fast_s,
        "goal": case.goal,
        "largest_difference": largest,
    }
    if ways.needed is not None:
        limit = rates.limit(ways.needed.times(1 / ways.n_fast))
        result["limit"] = limit.to_dict(fast_s)
    return result


def _plain(args: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    from editkit_benchmarks.speed.cases import CASES
    from editkit_benchmarks.speed.limits import Rates
    from editkit_benchmarks.speed.timing import document

    rates = Rates()
    known = {case.name: case for case in CASES}
    results = []
    for name in args.cases or known:
        result = measure(known[name], args.repeats, rates)
        results.append(result)
        show(
            f"{result['ratio']:6.1f}x (goal {result['goal']:g}x)  {result['title']}\n"
            f"         {result['fast_ms']:.1f} ms, plain {result['plain_ms']:.1f} ms per unit; "
            f"largest difference {result['largest_difference']:.1e}\n"
        )
        if limit := result.get("limit"):
            show(
                f"         at {limit['share_of_limit']:.0%} of the limit, "
                f"{limit['limit_ms']:.1f} ms for {limit['flops'] / 1e9:.2f} GFLOP; "
                f"bound by {limit['bound_by']}\n"
            )
    return document("plain", "cpu", results, rates)


def _published(args: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    from editkit_benchmarks.speed import published
    from editkit_benchmarks.speed.timing import document

    code = published.load_published(args.rome)
    results = []
    for name in args.cases or published.CASES:
        result = published.measure(code, name, repeats=args.repeats)
        results.append(result)
        goal = "" if result["goal"] is None else f" (goal {result['goal']:g}x)"
        show(
            f"{result['ratio']:6.1f}x{goal}  {result['title']}\n"
            f"         {result['editkit_ms']:.1f} ms, published {result['published_ms']:.1f} ms "
            "of CPU time; largest relative difference "
            f"{result['largest_relative_difference']:.1e}\n"
        )
    return document("published", "cpu", results)


def _device(args: argparse.Namespace, show: Callable[[str], None]) -> dict[str, Any]:
    from editkit_benchmarks.speed import device

    options = device.Options.of(
        args.device, minutes=args.minutes, out=args.out, shape=args.shape, cases=args.cases
    )
    answer = device.measure(options, show)
    show(f"results: {options.out}\n")
    return answer


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = argparse.ArgumentParser(
        prog="python -m editkit_benchmarks.speed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    questions = top.add_subparsers(dest="question", required=True, metavar="QUESTION")

    def add(
        name: str, summary: str, run: Answer, cases: Sequence[str], threads: int | None
    ) -> argparse.ArgumentParser:
        one = questions.add_parser(name, help=summary, description=summary)
        one.set_defaults(run=run)
        one.add_argument(
            "cases",
            nargs="*",
            metavar="CASE",
            type=_one_of(cases),
            help=f"cases to run (all): {', '.join(cases)}",
        )
        one.add_argument(
            "--threads",
            type=positive,
            default=threads,
            help=f"torch threads ({threads or 'as many as torch chooses'})",
        )
        one.add_argument("--json", action="store_true", help="print one JSON document")
        return one

    on_device = add("device", "on one device within some minutes", _device, names.DEVICE, None)
    on_device.add_argument("--device", default="cuda", help="cuda, cuda:1, ... or cpu (cuda)")
    on_device.add_argument("--minutes", type=above(0), default=8.0, help="time for everything (8)")
    on_device.add_argument(
        "--shape",
        choices=names.SHAPES,
        help="shape of most cases (gpt2-xl; on a CPU, tiny)",
    )
    on_device.add_argument(
        "--out", type=Path, default=Path("speed.json"), help="file of results (speed.json)"
    )
    plain = add("plain", "against the plain way and the limit", _plain, names.PLAIN, 1)
    against = add("published", "against ROME's published code", _published, names.PUBLISHED, 1)
    for one in (plain, against):
        one.add_argument(
            "--repeats", type=positive, default=3, help="repeats; the best one counts (3)"
        )
    against.add_argument(
        "--rome", type=Path, required=True, help="a clone of github.com/kmeng01/rome"
    )
    return top


def _one_of(cases: Sequence[str]) -> Callable[[str], str]:
    def check(name: str) -> str:
        if name not in cases:
            raise argparse.ArgumentTypeError(
                f"no case {name!r}; expected one of {', '.join(cases)}"
            )
        return name

    return check


def main(arguments: Sequence[str] | None = None) -> int:
    """Answer one question."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0].startswith("--") and given[0] != "--help":
        given.insert(0, "device")
    args = parser().parse_args(given)
    if args.threads is not None:
        import torch

        torch.set_num_threads(args.threads)

    def show(text: str) -> None:
        if not args.json:
            sys.stdout.write(text)
            sys.stdout.flush()

    try:
        answer = args.run(args, show)
    except EditkitError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    if args.json:
        sys.stdout.write(json.dumps(answer, indent=1) + "\n")
    return int(any("failed" in result for result in answer["results"]))


if __name__ == "__main__":
    sys.exit(main())
