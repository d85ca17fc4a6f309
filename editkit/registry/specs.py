"""Specs: how a plugin describes what it offers without importing it.

Specs refer to classes as ``"package.module:Name"`` and to files as ``"package:folder/file"``; both
are loaded when they are first used.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar, Literal, get_args

from editkit.data_types import Score
from editkit.editing.outcomes import BASELINE
from editkit.models.architectures import Architecture
from editkit.palette import Style, problem_of_style
from editkit.regimes import Regime, RegimeKind


@dataclasses.dataclass(frozen=True)
class _Spec:
    name: str
    """Name that users type: lower case, ``ft+l``."""
    factory: str
    """The class, as ``"package.module:Name"``; called with a config."""
    config: str
    """The config class, as ``"package.module:Name"``; importing it must not load torch."""
    summary: str
    """One line for listings."""


@dataclasses.dataclass(frozen=True)
class LayerRule:
    """Which layer to edit in a model that has no file of values.

    Attributes:
        depth: The layer's relative depth, from 0 up to 1.
        why: Reason to print whenever the rule is used: ``"a third of the depth, where..."``.
        field: Config field that the rule sets.
        is_guess: Whether the rule is a guess, rather than a paper's choice for its own models.
        count: Number of consecutive layers that end at this depth, for a field with a list of
            layers; None: the field has one layer.
        A_TENTH: The rule of editors that write into an early MLP.
    """

    A_TENTH: ClassVar[LayerRule]

    depth: float
    why: str
    field: str = "layer"
    is_guess: bool = False
    count: int | None = None

    def layer_of(self, n_layers: int) -> int:
        """The layer, counted from 0, in a model with ``n_layers`` layers."""
        return min(n_layers - 1, int(self.depth * n_layers))

    def layers_of(self, n_layers: int) -> tuple[int, ...]:
        """The layers, ascending: ``count`` of them or, in the lowest blocks, fewer."""
        last = self.layer_of(n_layers)
        return tuple(range(max(0, last + 1 - (self.count or 1)), last + 1))


LayerRule.A_TENTH = LayerRule(
    1 / 10,
    "a guess: a tenth of the depth, the best of the depths tried on models that no paper covers "
    "('editkit explain defaults'); 'layer: auto' chooses by tracing the model itself",
    is_guess=True,
)


@dataclasses.dataclass(frozen=True)
class EditorSpec(_Spec):
    """An editor."""

    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Named sets of config values; the first is the default."""
    configs: str | None = None
    """Folder of YAML files with values per model (``gpt2-xl.yaml``), as ``"package:folder"``."""
    layer_rule: LayerRule | None = None
    """Chooses the layer if neither a file nor the user does."""
    layer_locator: str | None = None
    """Locator that chooses the layer if it is set to ``auto``."""
    fallback: tuple[Mapping[str, Any], ...] = ()
    """Config values for models without a file of values, in groups. A group is used unless the user
    sets its first field, or names a preset; the user's values win over its other fields."""
    model_presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """Further values of a preset for single models, named as in ``configs``:
    ``{"paper": {"gpt2-xl": {"layer": 18}}}``."""
    regimes: tuple[RegimeKind, ...] = ("independent",)
    """What the method supports by itself, besides one fact per model: ``joint`` if it solves for
    many facts together (it overrides ``edit_jointly``), ``sequential`` if it keeps something
    between steps (it overrides ``step``). Other editors run in those regimes too: they write one
    fact after the other."""
    style: Style | None = None
    """Colour, marker and dash in figures, pages and charts; None: the name picks them."""

    def writes_together(self, regime: Regime) -> bool:
        """Whether the method writes all facts of a step of a regime at once."""
        own = {"independent": set[str](), "joint": {"joint"}, "sequential": {"joint", "sequential"}}
        return bool(own[regime.kind] & {*self.regimes})


@dataclasses.dataclass(frozen=True)
class LocatorSpec(_Spec):
    """A locator."""

    presets: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)
    """Named sets of config values; the first is the default."""
    model_presets: Mapping[str, Mapping[str, Mapping[str, Any]]] = dataclasses.field(
        default_factory=dict
    )
    """As for editors: further values of a preset for single models."""
    configs: str | None = None
    """As for editors: folder of YAML files with values per model."""


@dataclasses.dataclass(frozen=True)
class MetricSpec(_Spec):
    """A metric."""

    scores: tuple[Score, ...] = ()
    protocol: str = ""
    """Name of the exact procedure; results of different protocols are never averaged together. A
    ``{field}`` is replaced with the value of the configuration's field or property:
    ``mine/{stop}/v1``; a field that names a file, with the first digits of the digest of its
    content."""
    scores_of: str = ""
    """Function of the configuration that returns further scores, ``"package.module:function"``, for
    metrics that do not know all of their scores in advance; importing it must not load torch."""
    corpus: str = ""
    """Kind of the dataset's own texts (``Records.texts``) that the scores depend on, if any; their
    digest becomes part of the protocol's name."""


@dataclasses.dataclass(frozen=True)
class ModelMetricSpec(_Spec):
    """A metric of an edited model as a whole."""

    scores: tuple[Score, ...] = ()
    protocol: str = ""
    """As for metrics: name of the exact procedure."""
    scores_of: str = ""
    """As for metrics: function that returns further scores."""


@dataclasses.dataclass(frozen=True)
class JudgeSpec(_Spec):
    """A judge of what models write."""

    protocol: str = ""
    """As for metrics: name of the exact procedure, which may contain ``{field}``; part of the
    protocol of every metric that asks the judge."""


@dataclasses.dataclass(frozen=True)
class DatasetSpec(_Spec):
    """A dataset."""

    training: Mapping[str, Any] | None = None
    """Config values that select training records, separate from those that results are reported
    on; None if there are none."""
    relation_names: str | None = None
    """JSON file with the names of relations, which tables print instead of the identifiers:
    ``"package:file.json"`` with ``{"P103": "native language"}``, or with an object that has a
    ``name`` in place of the text. ``WIKIDATA_NAMES`` of :mod:`editkit.registry.relation_names` has
    properties of Wikidata. Identifiers without a name are printed."""


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """A model that ships with a package, or that a function finds on the user's machine.

    Attributes:
        name: Name that users type.
        folder: Folder in a package, ``"package:folder"``; give either this or ``locate``.
        summary: One line for listings.
        locate: ``"package.module:function"``, called without arguments when the model is used.
            The function returns the path of a folder or of a GGUF file, and raises a
            :class:`~editkit.errors.ModelError` if the model is not on this machine. It downloads
            nothing.
        facts: Facts that the model may know, for the questions that ``editkit.edit`` proposes: a
            file in one of the layouts of docs/datasets.md, ``"package:file.json"``, or a function
            without arguments that returns a :class:`~editkit.records.relations.FactTable`,
            ``"package.module:function"``. None: a general table.
    """

    name: str
    folder: str | None = None
    summary: str = ""
    locate: str | None = None
    facts: str | None = None


@dataclasses.dataclass(frozen=True)
class BenchmarkSpec:
    """A benchmark file that ships with a package, ``"package:file.yaml"``."""

    name: str
    file: str
    summary: str


@dataclasses.dataclass(frozen=True)
class PublishedTableSpec:
    """A file of published results, ``"package:file.yaml"``, which reports show next to ours."""

    name: str
    file: str
    summary: str


@dataclasses.dataclass(frozen=True)
class CommandSpec:
    """A command ``editkit NAME``.

    ``module`` is imported when the command is used and has ``configure(parser)`` and
    ``run(args) -> int``.
    """

    name: str
    module: str
    summary: str


@dataclasses.dataclass(frozen=True)
class ArchitectureSpec:
    """The architecture of one model type; hooks return :class:`Architecture` values."""

    name: str
    architecture: Architecture
    summary: str


Kind = Literal[
    "editor", "locator", "metric", "model_metric", "judge", "dataset", "model", "benchmark",
    "published_table", "command", "architecture",
]  # fmt: skip
Spec = (
    EditorSpec
    | LocatorSpec
    | MetricSpec
    | ModelMetricSpec
    | JudgeSpec
    | DatasetSpec
    | ModelSpec
    | BenchmarkSpec
    | PublishedTableSpec
    | CommandSpec
    | ArchitectureSpec
)
SPEC_TYPES: Mapping[Kind, type] = {
    "editor": EditorSpec,
    "locator": LocatorSpec,
    "metric": MetricSpec,
    "model_metric": ModelMetricSpec,
    "judge": JudgeSpec,
    "dataset": DatasetSpec,
    "model": ModelSpec,
    "benchmark": BenchmarkSpec,
    "published_table": PublishedTableSpec,
    "command": CommandSpec,
    "architecture": ArchitectureSpec,
}
"""The class of each kind; the hook ``editkit_KINDs`` returns instances of it, or, for
architectures, an :class:`Architecture` for each family."""

REFERENCE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
"""``"package.module:Name"``."""
_NAME = re.compile(r"[a-z0-9][a-z0-9+_-]*")
_TEXTS = (
    "summary", "protocol", "corpus", "module", "folder", "file", "configs", "facts",
    "relation_names",
)  # fmt: skip
_OPTIONAL = ("configs", "folder", "facts", "relation_names")
_MAPPINGS = ("presets", "model_presets", "training")


def architecture_specs(architecture: Any) -> Iterator[Any]:
    """The specs of an architecture, one per model type; anything else is passed on as it is."""
    types = getattr(architecture, "model_types", None)
    if not isinstance(architecture, Architecture) or not isinstance(types, tuple) or not types:
        yield architecture
        return
    for name in types:
        summary = f"blocks in {architecture.blocks}, W in {architecture.mlp_out}"
        yield ArchitectureSpec(name, architecture, summary)


def problem_of(spec: Any, expected: type) -> str | None:
    """Why a plugin's spec cannot be used; None if it can.

    Args:
        spec: What the plugin's hook returned, of any type.
        expected: The class that it should have.
    """
    if expected is ArchitectureSpec and not isinstance(spec, ArchitectureSpec):
        if isinstance(spec, Architecture):
            return f"returned an Architecture with {wrong_field(spec)}"
        return f"returned {spec!r:.80} ({type(spec).__name__}), expected Architecture"
    if not isinstance(spec, expected):
        return f"returned {spec!r:.80} ({type(spec).__name__}), expected {expected.__name__}"
    name = getattr(spec, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"offers the name {name!r}, expected lower-case letters, digits, '+', '-', '_'"
    for field in ("factory", "config"):
        reference = getattr(spec, field, "package:Name")
        if not isinstance(reference, str) or not REFERENCE.fullmatch(reference):
            return f"has {reference!r} as {field} of {name!r}, expected 'package.module:Name'"
    scores_of = getattr(spec, "scores_of", "")
    if scores_of != "" and not (isinstance(scores_of, str) and REFERENCE.fullmatch(scores_of)):
        return f"has {scores_of!r:.80} as scores_of of {name!r}, expected 'package.module:function'"
    for field in _TEXTS:
        text = getattr(spec, field, "")
        if not isinstance(text, str) and not (field in _OPTIONAL and text is None):
            return f"has {text!r:.80} as {field} of {name!r}, expected a text"
    if isinstance(spec, ModelSpec):
        if (spec.folder is None) == (spec.locate is None):
            given = "neither folder nor" if spec.folder is None else "both folder and"
            return f"gives {given} locate of {name!r}, expected one of them"
        if spec.locate is not None and not (
            isinstance(spec.locate, str) and REFERENCE.fullmatch(spec.locate)
        ):
            return (
                f"has {spec.locate!r:.80} as locate of {name!r}, expected 'package.module:function'"
            )
    for field in _MAPPINGS:
        mapping = getattr(spec, field, None)
        nested = field != "training"
        if mapping is not None and not _is_mapping(mapping, nested=nested):
            kind = "a mapping of mappings" if nested else "a mapping"
            return f"has {mapping!r:.80} as {field} of {name!r}, expected {kind}"
    fallback = getattr(spec, "fallback", ())
    if not isinstance(fallback, tuple) or not all(isinstance(each, Mapping) for each in fallback):
        return f"has {fallback!r:.80} as fallback of {name!r}, expected a tuple of mappings"
    regimes, known = getattr(spec, "regimes", ()), get_args(RegimeKind)
    if not isinstance(regimes, tuple) or not set(regimes) <= set(known):
        return f"has {regimes!r:.80} as regimes of {name!r}, expected a tuple of {', '.join(known)}"
    scores = getattr(spec, "scores", ())
    if not isinstance(scores, tuple) or not all(isinstance(each, Score) for each in scores):
        return f"has {scores!r:.80} as scores of {name!r}, expected a tuple of Score"
    if isinstance(spec, ArchitectureSpec) and (wrong := wrong_field(spec.architecture)):
        return f"has a wrong field in the architecture {name!r}: {wrong}"
    style = getattr(spec, "style", None)
    if style is not None and not isinstance(style, Style):
        return f"has {style!r:.80} as style of {name!r}, expected Style"
    if style is not None and (wrong := problem_of_style(style, may_be_grey=name == BASELINE)):
        return f"has a wrong style for {name!r}: {wrong}"
    rule = getattr(spec, "layer_rule", None)
    if rule is not None and not isinstance(rule, LayerRule):
        return f"has {rule!r:.80} as layer_rule of {name!r}, expected LayerRule"
    return None


def wrong_field(architecture: Architecture) -> str | None:
    """The first field of an entry with a value of another type, and what it expects."""
    fits: Mapping[str, Callable[[Any], bool]] = {
        "str": lambda value: isinstance(value, str) and bool(value),
        "bool": lambda value: isinstance(value, bool),
        "float": lambda value: isinstance(value, int | float) and not isinstance(value, bool),
        "tuple[str, ...]": lambda value: (
            isinstance(value, tuple)
            and bool(value)
            and all(isinstance(each, str) and each for each in value)
        ),
    }
    for field in dataclasses.fields(architecture):
        value = getattr(architecture, field.name)
        declared, _, optional = str(field.type).partition(" | ")
        check = fits.get(declared, callable)
        if not check(value) and not (optional == "None" and value is None):
            expected = _expected(field.name, declared, value)
            return f"{field.name} is {value!r:.80}, expected {expected}"
    return None


def _expected(field: str, declared: str, value: Any) -> str:
    """What a field of an entry takes, with the given value corrected where it is clear how."""
    if declared == "tuple[str, ...]":
        texts = [value] if isinstance(value, str) else value
        what = "names" if field == "model_types" else "paths"
        if isinstance(texts, list | tuple) and texts and all(isinstance(x, str) for x in texts):
            return f"a tuple of {what}: {tuple(texts)!r:.80}"
        example = ("llama",) if field == "model_types" else ("self_attn.q_proj",)
        return f"a tuple of {what} such as {example!r}"
    return {
        "str": "a path such as 'model.layers'",
        "bool": "True or False",
        "float": "a number such as 0.5",
    }.get(declared, "a function (architecture, config) -> architecture")


def _is_mapping(value: Any, *, nested: bool) -> bool:
    return isinstance(value, Mapping) and all(
        isinstance(key, str) and (not nested or isinstance(inner, Mapping))
        for key, inner in value.items()
    )
