"""Show what an editor, locator, metric, judge, dataset, model, benchmark or command does.

For what has a configuration, every field is listed with its type, its value and the value's source.
With --model, these are the values for that model.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import textwrap
import types
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from editkit.cli.arguments import add_examples, add_flag, add_flags
from editkit.data_types import Score
from editkit.errors import PluginError, UsageError, did_you_mean
from editkit.regimes import RegimeKind
from editkit.registry.config import GivenConfig, config_class, gather_config
from editkit.registry.plugins import KINDS, Offer, Registry, default_registry
from editkit.registry.specs import EditorSpec, ModelMetricSpec
from editkit.registry.styles import style_of
from editkit.registry.values_label import label_of_values
from editkit.storage.digests import plain
from editkit.terminal import line_width

_REQUIRED = "(required)"
_WIDEST = 92  # characters of a sentence


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_flag(
        parser, "name", metavar="NAME", complete="any", help="an editor, a metric, a dataset, ..."
    )
    add_flag(
        parser,
        "--kind",
        choices=KINDS,
        metavar="KIND",
        help=f"only this kind: {', '.join(KINDS)} (default: all)",
    )
    add_flag(parser, "--model", help="show the values for this model", shown_default="for no model")
    add_flags(parser, "--preset")
    form = parser.add_mutually_exclusive_group()
    add_flag(form, "--schema", action="store_true", help="print the JSON schema of the config")
    add_flag(form, "--yaml", action="store_true", help="print a snippet for a benchmark file")
    add_flag(form, "--json")
    add_examples(parser, "editkit describe rome", "editkit describe rome -m gpt2-xl --yaml")


def run(args: argparse.Namespace) -> int:
    """Describe everything of that name."""
    offers = _offers(default_registry(), args.name, args.kind)
    if args.model is not None:
        from editkit.registry.models import refuse_config

        refuse_config(args.model)
    if args.json:
        documents = [_document(offer, args) for offer in offers]
        sys.stdout.write(json.dumps(documents, indent=2) + "\n")
        return 0
    if (args.schema or args.yaml) and len(offers) > 1:
        kinds = ", ".join(offer.kind for offer in offers)
        raise UsageError(
            f"{args.name!r} is the name of several things: {kinds}.", hint="Choose one with --kind."
        )
    show = _schema if args.schema else _yaml if args.yaml else _text
    sys.stdout.write("\n".join(show(offer, args) for offer in offers))
    return 0


def _offers(registry: Registry, name: str, kind: Any) -> list[Offer]:
    registry.check_strict()
    kinds = [kind] if kind else [k for k in KINDS if registry.has(k, name)]
    if kinds:
        return [registry.get(k, name) for k in kinds]
    known = sorted({offer.name for offer in registry.offers()})
    raise PluginError(
        f"there is no editor, metric, dataset or other plugin named {name!r}."
        f"{registry.possible_reasons()}",
        hint=did_you_mean(name, known) or "'editkit plugins' lists what is installed.",
    )


# ---------------------------------------------------------------- fields


@dataclasses.dataclass(frozen=True)
class _Field:
    name: str
    type: str
    value: Any
    source: str
    doc: str
    required: bool = False


def _given_config(offer: Offer, args: argparse.Namespace) -> GivenConfig | None:
    """The values of its configuration; None if it has none."""
    from editkit.registry.models import n_layers_of

    if getattr(offer.spec, "config", None) is None:
        return None
    return gather_config(
        offer,
        model=args.model,
        preset=args.preset,
        place="--preset",
        n_layers=lambda: n_layers_of(args.model),
    )


def _fields(given: GivenConfig) -> list[_Field]:
    return _fields_of(given.schema, given.values, given.sources, "")


def _fields_of(
    schema: type[BaseModel], values: Mapping[str, Any], sources: Mapping[str, str], prefix: str
) -> list[_Field]:
    fields: list[_Field] = []
    for name, info in schema.model_fields.items():
        section = info.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            inner = values.get(name, {})
            fields += _fields_of(section, inner, sources, f"{prefix}{name}.")
            continue
        required = name not in values and info.is_required()
        value = None if required else values.get(name, info.get_default(call_default_factory=True))
        source = sources[f"{prefix}{name}"]
        doc = " ".join((info.description or "").split())
        fields.append(_Field(prefix + name, _type(info), plain(value), source, doc, required))
    return fields


def _type(info: FieldInfo) -> str:
    return ", ".join([_type_name(info.annotation), *_limits(info.metadata)])


def _limits(metadata: Iterable[Any]) -> list[str]:
    return [
        f"{sign} {getattr(limit, attribute)}"
        for limit in metadata
        for attribute, sign in (("gt", ">"), ("ge", ">="), ("lt", "<"), ("le", "<="))
        if getattr(limit, attribute, None) is not None
    ]


def _type_name(annotation: Any) -> str:
    """A type in short: ``int >= 0 | None``."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Ellipsis:
        return "..."
    if origin is Literal:
        return " | ".join(repr(value) for value in inner)
    if origin is Annotated:
        metadata = [m for item in inner[1:] for m in getattr(item, "metadata", [item])]
        return " ".join([_type_name(inner[0]), *_limits(metadata)])
    if origin in (Union, types.UnionType):
        return " | ".join(_type_name(option) for option in inner)
    if origin is not None:
        return f"{origin.__name__}[{', '.join(_type_name(item) for item in inner)}]"
    return "None" if annotation is type(None) else getattr(annotation, "__name__", str(annotation))


# ---------------------------------------------------------------- output


def _text(offer: Offer, args: argparse.Namespace) -> str:
    lines = [f"{offer.name}: {offer.kind} of {offer.source}", f"  {offer.spec.summary}"]
    given = _given_config(offer, args)
    for title, value in _facts(offer, given).items():
        space = "" if value.startswith("\n") else " "  # a list begins on a line of its own
        lines += _wrapped(f"  {title}:{space}{value}", "    ")
    if given is None:
        return "\n".join(lines) + "\n"
    fields = _fields(given)
    lines.append("\nvalues:" if fields else "\nvalues: none")
    for field in fields:
        value = _REQUIRED if field.required else json.dumps(field.value, ensure_ascii=False)
        source = "" if field.required else f"  [{field.source}]"
        lines += _wrapped(f"  {field.name} = {value}  ({field.type}){source}", "      ")
        width = min(line_width(terminal=True), _WIDEST) if sys.stdout.isatty() else _WIDEST
        lines += textwrap.wrap(
            field.doc, width, initial_indent="      ", subsequent_indent="      "
        )
    return "\n".join(lines) + "\n"


def _wrapped(text: str, indent: str) -> list[str]:
    """Lines that fit a terminal; in a pipe, they are as long as they need to be."""
    if not sys.stdout.isatty():
        return text.splitlines()
    width = min(line_width(terminal=True), _WIDEST)
    return [
        part
        for line in text.splitlines()
        for part in textwrap.wrap(line, width, subsequent_indent=indent, break_on_hyphens=False)
    ]


def _facts(offer: Offer, given: GivenConfig | None) -> dict[str, str]:
    """Facts about it, by title."""
    spec: Any = offer.spec
    facts: dict[str, str] = {}
    if presets := getattr(spec, "presets", None):
        chosen = given.preset if given else None
        facts["presets"] = ", ".join(f"{p} (shown)" if p == chosen else p for p in presets)
    if given and (label := _values_from(offer, given)):
        facts["values from"] = label
    if given and given.matched.report:
        facts["file of values"] = given.matched.report
    if given and given.note:
        facts["note"] = " ".join(given.note.split())
    if given and given.rule:
        facts["fallback rule"] = given.rule
    if given and given.overridden:
        facts[f"preset {given.preset} overrides"] = "; ".join(given.overridden)
    if protocol := getattr(spec, "protocol", None):
        facts["protocol"] = protocol
    if scores := getattr(spec, "scores", None):
        facts["scores"] = "".join(f"\n    {_score(score)}" for score in scores)
    if isinstance(spec, EditorSpec):
        facts["regimes"] = _regimes(spec)
        style = style_of(spec.name)
        facts["style"] = f"colour {style.color}, marker {style.marker}, line {style.dash}" + (
            "" if spec.style else " (picked by its name)"
        )
    if isinstance(spec, ModelMetricSpec):
        facts["measures"] = (
            "every edited model (under metrics), or only shared ones (model_metrics)"
        )
    for attribute in ("folder", "file", "module"):
        if hasattr(spec, attribute):
            facts[attribute] = getattr(spec, attribute)
    return facts


def _values_from(offer: Offer, given: GivenConfig) -> str | None:
    return label_of_values(offer, given.preset, given.values, given.sources)


def _score(score: Score) -> str:
    label = f" ({score.label})" if score.label else ""
    return f"{score.key}{label}: {score.description}" if score.description else score.key + label


def _regimes(spec: EditorSpec) -> str:
    """The regimes that the method supports by itself, and what happens in the others."""
    own = {"independent", *spec.regimes}
    parts = [name for name in get_args(RegimeKind) if name in own]
    text = f"{', '.join(parts)} by itself"
    if "joint" not in own:
        others = ["joint edits"] + ["sequences"] * ("sequential" not in own)
        return f"{text}; {' and '.join(others)} write one fact after the other"
    return text if "sequential" in own else f"{text}; sequences make one joint edit per step"


def _schema(offer: Offer, args: argparse.Namespace) -> str:
    return json.dumps(config_class(offer).model_json_schema(), indent=2) + "\n"


def _yaml(offer: Offer, args: argparse.Namespace) -> str:
    config_class(offer)  # an error if it takes no configuration
    given = _given_config(offer, args)
    single = offer.kind == "dataset"  # a benchmark has one, and lists of the others
    lines = ["dataset:" if single else f"{offer.kind}s:"]
    lines.append(f"{'  ' if single else '  - '}name: {offer.name}")
    indent = "  " if single else "    "
    if given and given.preset:
        lines.append(f"{indent}preset: {given.preset}")
    fields = _fields(given) if given else []
    lines += [f"{indent}config:" if fields else f"{indent}config: {{}}"]
    for text in _yaml_fields(fields):
        lines.append(f"{indent}  {text}")
    return "\n".join(lines) + "\n"


def _yaml_fields(fields: list[_Field]) -> list[str]:
    lines: list[str] = []
    open_sections: list[str] = []
    for field in fields:
        *sections, name = field.name.split(".")
        for depth, section in enumerate(sections):
            if open_sections[: depth + 1] != sections[: depth + 1]:
                lines.append(f"{'  ' * depth}{section}:")
        open_sections = sections
        pad = "  " * len(sections)
        lines += textwrap.wrap(
            field.doc, 88, initial_indent=f"{pad}# ", subsequent_indent=f"{pad}# "
        )
        if field.required:
            lines.append(f"{pad}{name}:  # {field.type}, required")
        else:
            value = yaml.safe_dump(field.value, default_flow_style=True, width=10_000)
            lines.append(f"{pad}{name}: {value.removesuffix('...' + chr(10)).strip()}")
    return lines


def _of_editor(spec: EditorSpec) -> dict[str, Any]:
    return {"regimes": list(spec.regimes), "style": dataclasses.asdict(style_of(spec.name))}


def _document(offer: Offer, args: argparse.Namespace) -> dict[str, Any]:
    given = _given_config(offer, args)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "distribution": offer.source.distribution,
        "version": offer.source.version,
        "summary": offer.spec.summary,
        **(_of_editor(offer.spec) if isinstance(offer.spec, EditorSpec) else {}),
        "presets": list(getattr(offer.spec, "presets", ())),
        "preset": given.preset if given else None,
        "values_from": _values_from(offer, given) if given else None,
        "note": given.note if given else None,
        "rule": given.rule if given else None,
        "matched": given.matched.report if given else None,
        "overridden": list(given.overridden) if given else [],
        "fields": [dataclasses.asdict(field) for field in _fields(given)] if given else [],
    }
