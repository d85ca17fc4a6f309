"""Time editkit's batching and reuse against the plain way, and print the ratios."""

from __future__ import annotations

import argparse
import json
import sys
import time
from typing import Any

import torch

from editkit_benchmarks.speed.cases import CASES, Case, Work


def measure(case: Case, repeats: int) -> dict[str, Any]:
    """Time both ways alternately, best of ``repeats``, after an untimed run of each."""
    fast, n_fast, plain, n_plain = case.make()
    pairs = zip(plain(), fast(), strict=True)
    largest = max(abs(a - b) for a, b in pairs)
    times: dict[str, list[float]] = {"fast": [], "plain": []}
    for _ in range(repeats):
        times["fast"].append(_seconds(fast) / n_fast)
        times["plain"].append(_seconds(plain) / n_plain)
    best = {way: min(seconds) for way, seconds in times.items()}
    return {
        "case": case.name,
        "title": case.title,
        "fast_ms": 1000 * best["fast"],
        "plain_ms": 1000 * best["plain"],
        "ratio": best["plain"] / best["fast"],
        "goal": case.goal,
        "largest_difference": largest,
    }


def _seconds(work: Work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> int:
    """Run the chosen cases."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.speed", description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="cases to run (all)")
    parser.add_argument("--repeats", type=int, default=3, help="repeats; the best one counts (3)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads (2)")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    known = {case.name: case for case in CASES}
    unknown = [name for name in args.cases if name not in known]
    if unknown:
        parser.error(f"no case {unknown[0]!r}; expected one of {', '.join(known)}")
    results = []
    for name in args.cases or known:
        result = measure(known[name], args.repeats)
        results.append(result)
        if not args.json:
            sys.stdout.write(
                f"{result['ratio']:6.1f}x (goal {result['goal']:g}x)  {result['title']}\n"
                f"         {result['fast_ms']:.1f} ms, plain {result['plain_ms']:.1f} ms per unit; "
                f"largest difference {result['largest_difference']:.1e}\n"
            )
            sys.stdout.flush()
    if args.json:
        sys.stdout.write(json.dumps({"threads": args.threads, "results": results}) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
