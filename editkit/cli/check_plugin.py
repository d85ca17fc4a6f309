"""Check that a plugin keeps the rules of its kind, and say what to do about each broken rule.

NAME is an editor, locator, metric, metric of models, judge or dataset. If it is a plugin or a
distribution, everything that it offers is checked. The exit code is 1 if a rule is broken.
"""

from __future__ import annotations

import argparse
import json
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from editkit.cli.arguments import add_examples, add_flag, add_flags, parse_sets
from editkit.errors import ConfigError, PluginError, did_you_mean
from editkit.registry.config import config_class
from editkit.registry.plugins import Offer, Registry, default_registry
from editkit.registry.specs import Kind
from editkit.validation import nested_values

if TYPE_CHECKING:
    from editkit.testing.checking import Outcome

_KINDS: tuple[Kind, ...] = ("editor", "locator", "metric", "model_metric", "judge", "dataset")
EXIT_BROKEN = 1


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser,
        "name",
        metavar="NAME",
        complete="any",
        help="an editor, a metric, ..., a plugin or a distribution",
    )
    add_flag(
        parser,
        "--kind",
        choices=_KINDS,
        metavar="KIND",
        help=f"check only this kind: {', '.join(_KINDS)} (default: all)",
    )
    add_flags(parser, "--preset", "--set", "--json")
    add_examples(
        parser,
        "editkit check-plugin rome",
        "editkit check-plugin counterfact --kind dataset --set path=counterfact.json",
    )


def run(args: argparse.Namespace) -> int:
    """Check, and print the outcome of each rule."""
    from editkit.testing.checking import check

    offers = _offers(default_registry(), args.name, args.kind)
    values = _values(args.sets, offers)
    documents = []
    for offer in offers:
        fields = config_class(offer).model_fields
        own = {field: value for field, value in values.items() if field in fields}
        outcomes: list[Outcome] = []
        if not args.json:
            sys.stdout.write(f"{offer.kind} {offer.name} of {offer.source}\n")
        for outcome in check(offer, own, preset=args.preset):
            outcomes.append(outcome)
            if not args.json:
                sys.stdout.write("".join(_lines(outcome)))
                sys.stdout.flush()
        documents.append(_document(offer, outcomes))
        if not args.json:
            sys.stdout.write(f"  {_summary(outcomes)}\n\n")
    sound = all(document["ok"] for document in documents)
    if args.json:
        whole = {"schema": 1, "ok": sound, "checked": documents}
        sys.stdout.write(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")
    elif len(offers) > 1:
        broken = [f"{d['kind']} {d['name']}" for d in documents if not d["ok"]]
        verdict = f"broken rules in {', '.join(broken)}" if broken else "no rule is broken"
        sys.stdout.write(f"{len(offers)} checked: {verdict}\n")
    return 0 if sound else EXIT_BROKEN


def _offers(registry: Registry, name: str, kind: Kind | None) -> list[Offer]:
    """What has this name; otherwise, what the plugin or distribution of this name offers.

    Raises:
        PluginError: There is none, it is broken, or the name is ambiguous.
    """
    registry.check_strict()
    kinds = [kind] if kind else list(_KINDS)
    offers = [offer for each in kinds for offer in registry.offers(each)]
    if any(offer.name == name for offer in offers):
        return [registry.get(each, name) for each in kinds if registry.has(each, name)]
    of_plugin = [
        offer for offer in offers if name in (offer.source.plugin, offer.source.distribution)
    ]
    if of_plugin:
        return of_plugin
    for broken in registry.broken:
        if name in (broken.source.plugin, broken.source.distribution):
            raise PluginError(
                f"a broken plugin cannot be checked: {broken}.",
                hint="Fix that first; editkit uses nothing of a broken plugin.",
            )
    what = kind or "editor, locator, metric, model_metric, judge, dataset or plugin"
    sources = {offer.source for offer in offers}
    known = {offer.name for offer in offers}
    known |= {source.plugin for source in sources} | {source.distribution for source in sources}
    hint = did_you_mean(name, sorted(known)) or "'editkit plugins' lists what is installed."
    raise PluginError(f"there is no {what} named {name!r}.{registry.possible_reasons()}", hint=hint)


def _values(sets: Sequence[str], offers: Sequence[Offer]) -> dict[str, Any]:
    """The values of ``--set``; each is a field of something that is checked."""
    known = sorted({field for offer in offers for field in config_class(offer).model_fields})
    values = nested_values(parse_sets(sets))
    for field in values:
        if field not in known:
            hint = did_you_mean(field, known) or f"Known: {', '.join(known) or 'no fields'}."
            raise ConfigError(f"--set {field}: unknown field.", hint=hint)
    return values


# ---------------------------------------------------------------- output


def _lines(outcome: Outcome) -> Iterator[str]:
    label = {"ok": "ok  ", "fail": "FAIL", "skip": "skip"}[outcome.status]
    reason = f" ({outcome.reason})" if outcome.status == "skip" else ""
    yield f"  {label}  {outcome.rule.text}{reason}\n"
    if outcome.status == "fail":
        for title, text in (("", outcome.reason), ("to do: ", outcome.rule.advice)):
            yield textwrap.fill(
                title + text, 100, initial_indent=" " * 10, subsequent_indent=" " * 10
            )
            yield "\n"


def _counts(outcomes: Sequence[Outcome]) -> Mapping[str, int]:
    return {
        status: sum(outcome.status == status for outcome in outcomes)
        for status in ("ok", "fail", "skip")
    }


def _summary(outcomes: Sequence[Outcome]) -> str:
    counts = _counts(outcomes)
    return f"rules: {counts['ok']} hold, {counts['fail']} broken, {counts['skip']} do not apply"


def _document(offer: Offer, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    return {
        "kind": offer.kind,
        "name": offer.name,
        "distribution": offer.source.distribution,
        "version": offer.source.version,
        "ok": not _counts(outcomes)["fail"],
        "rules": [
            {
                "rule": outcome.rule.method.removeprefix("test_"),
                "text": outcome.rule.text,
                "status": outcome.status,
                "reason": outcome.reason,
                "advice": outcome.rule.advice,
            }
            for outcome in outcomes
        ],
    }
