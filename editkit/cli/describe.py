"""Show what something does, every value that it can be given, and where each value comes from.

NAME is an editor, locator, metric, dataset, model, benchmark or command. With --model, the values
chosen for that model are shown.
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

from editkit.errors import PluginError, UsageError, did_you_mean
from editkit.registry.config import GivenConfig, config_class, gather_config
from editkit.registry.plugins import KINDS, Offer, Registry, default_registry
from editkit.storage.digests import plain

_REQUIRED = "(required)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("name", metavar="NAME", help="what to describe")
    parser.add_argument("--kind", choices=KINDS, help="which one, where several share the name")
    parser.add_argument("--model", metavar="M", help="show the values chosen for this model")
    parser.add_argument("--preset", metavar="P", help="show the values of this preset")
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--schema", action="store_true", help="print the config's JSON schema")
    form.add_argument("--yaml", action="store_true", help="print a snippet for a benchmark file")
    form.add_argument("--json", action="store_true", help="print one JSON document")


def run(args: argparse.Namespace) -> int:
    """Print the description of everything that has the name."""
    offers = _find(default_registry(), args.name, args.kind)
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
            f"{args.name!r} names several things: {kinds}.", hint="Pick one with --kind."
        )
    show = _schema if args.schema else _yaml if args.yaml else _text
    sys.stdout.write("\n".join(show(offer, args) for offer in offers))
    return 0


def _find(registry: Registry, name: str, kind: Any) -> list[Offer]:
    registry.check_strict()
    kinds = [kind] if kind else [k for k in KINDS if registry.has(k, name)]
    if kinds:
        return [registry.get(k, name) for k in kinds]
    known = sorted({offer.name for offer in registry.offers()})
    broken = "; ".join(str(plugin) for plugin in registry.broken)
    beside = f" These plugins are broken and may have offered it: {broken}." if broken else ""
    raise PluginError(
        f"nothing is called {name!r}.{beside}",
        hint=did_you_mean(name, known) or "Run 'editkit plugins' to see what is installed.",
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


def _stack(offer: Offer, args: argparse.Namespace) -> GivenConfig | None:
    """The layers of its configuration; None for what takes none."""
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


def _fields(stack: GivenConfig) -> list[_Field]:
    return _fields_of(stack.schema, stack.values, stack.sources, "")


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
    """A type as people write it: ``int >= 0 | None``."""
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


# ---------------------------------------------------------------- forms


def _text(offer: Offer, args: argparse.Namespace) -> str:
    lines = [f"{offer.name}: {offer.kind} of {offer.source}", f"  {offer.spec.summary}"]
    stack = _stack(offer, args)
    for title, value in _facts(offer, stack).items():
        lines.append(f"  {title}: {value}")
    if stack is None:
        return "\n".join(lines) + "\n"
    fields = _fields(stack)
    lines.append("\nvalues:" if fields else "\nvalues: none")
    for field in fields:
        value = _REQUIRED if field.required else json.dumps(field.value, ensure_ascii=False)
        source = "" if field.required else f"  [{field.source}]"
        lines.append(f"  {field.name} = {value}  ({field.type}){source}")
        lines += textwrap.wrap(field.doc, 92, initial_indent="      ", subsequent_indent="      ")
    return "\n".join(lines) + "\n"


def _facts(offer: Offer, stack: GivenConfig | None) -> dict[str, str]:
    """What else there is to say, by title."""
    spec: Any = offer.spec
    facts: dict[str, str] = {}
    if presets := getattr(spec, "presets", None):
        chosen = stack.preset if stack else None
        facts["presets"] = ", ".join(f"{p} (shown)" if p == chosen else p for p in presets)
    if stack and stack.matched.report:
        facts["file of values"] = stack.matched.report
    if stack and stack.note:
        facts["note"] = " ".join(stack.note.split())
    if stack and stack.rule:
        facts["fallback rule"] = stack.rule
    if stack and stack.overridden:
        facts[f"preset {stack.preset} wins"] = "; ".join(stack.overridden)
    if protocol := getattr(spec, "protocol", None):
        facts["protocol"] = protocol
    if scores := getattr(spec, "scores", None):
        facts["scores"] = ", ".join(f"{s.key} ({s.label})" if s.label else s.key for s in scores)
    for attribute in ("folder", "file", "module"):
        if hasattr(spec, attribute):
            facts[attribute] = getattr(spec, attribute)
    return facts


def _schema(offer: Offer, args: argparse.Namespace) -> str:
    return json.dumps(config_class(offer).model_json_schema(), indent=2) + "\n"


def _yaml(offer: Offer, args: argparse.Namespace) -> str:
    config_class(offer)  # refuses what takes no configuration
    stack = _stack(offer, args)
    single = offer.kind == "dataset"
    lines = ["dataset:" if single else f"{offer.kind}s:"]
    lines.append(f"{'  ' if single else '  - '}name: {offer.name}")
    indent = "  " if single else "    "
    if stack and stack.preset:
        lines.append(f"{indent}preset: {stack.preset}")
    fields = _fields(stack) if stack else []
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


def _document(offer: Offer, args: argparse.Namespace) -> dict[str, Any]:
    stack = _stack(offer, args)
    return {
        "kind": offer.kind,
        "name": offer.name,
        "distribution": offer.source.distribution,
        "version": offer.source.version,
        "summary": offer.spec.summary,
        "presets": list(getattr(offer.spec, "presets", ())),
        "preset": stack.preset if stack else None,
        "note": stack.note if stack else None,
        "rule": stack.rule if stack else None,
        "matched": stack.matched.report if stack else None,
        "overridden": list(stack.overridden) if stack else [],
        "fields": [dataclasses.asdict(field) for field in _fields(stack)] if stack else [],
    }
