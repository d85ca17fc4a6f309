"""The rules that everything keeps that a plugin offers: about its spec and its config.

A rule is a method ``test_*`` without arguments. The first line of its docstring states the rule,
the rest what to do if it is broken. Nothing here needs pytest, which collects a subclass like any
other test class.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ValidationError

from editkit.interfaces import Config
from editkit.registry.config import GivenValues, config_class, resolve_config
from editkit.registry.model_identity import KnownAs, ModelIdentity
from editkit.registry.plugins import GROUP, Offer, Registry, default_registry
from editkit.registry.specs import Kind
from editkit.validation import problems_of

_CACHE = "EDITKIT_CACHE"
_HEAVY = ("torch", "transformers", "tensorflow", "jax")
_IMPORTED = """
import importlib, json, sys
sys.path[:] = json.loads(sys.argv[1])
for name in json.loads(sys.argv[2]):
    importlib.import_module(name)
print(json.dumps(sorted(set(json.loads(sys.argv[3])) & set(sys.modules))))
"""


class ContractError(AssertionError):
    """A plugin breaks a rule of its contract."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule of a contract.

    Attributes:
        method: Name of the method that checks it.
        text: The rule.
        advice: What to do if it is broken.
    """

    method: str
    text: str
    advice: str


def require(holds: object, message: str) -> None:
    """Raise a :class:`ContractError` with the message unless ``holds`` is true."""
    if not holds:
        raise ContractError(message)


@contextlib.contextmanager
def fresh_cache() -> Iterator[Path]:
    """Inside, the cache is an empty folder, which is deleted afterwards."""
    before = os.environ.get(_CACHE)
    with tempfile.TemporaryDirectory(prefix="editkit-contract-") as folder:
        os.environ[_CACHE] = folder
        try:
            yield Path(folder)
        finally:
            if before is None:
                del os.environ[_CACHE]
            else:
                os.environ[_CACHE] = before


def few(things: Sequence[str]) -> str:
    """The first three, and how many more there are."""
    more = f" and {len(things) - 3} more" if len(things) > 3 else ""
    return ", ".join(things[:3]) + more


class Contract:
    """The rules for every editor, locator, metric, metric of models, judge and dataset.

    Attributes:
        plugin: Its name, as installed.
        preset: The preset to test; None: the default.
        config: Values on top of the preset that make it work quickly on a tiny model.
    """

    kind: ClassVar[Kind]
    base: ClassVar[type]

    plugin: str = ""
    preset: str | None = None
    config: Mapping[str, Any] = {}

    def setup_method(self) -> None:
        """Set up an empty cache for a rule; pytest and check-plugin call this."""
        self._cleanup = contextlib.ExitStack()
        self.scratch = self._cleanup.enter_context(self.fresh_cache())

    def teardown_method(self) -> None:
        """Restore the cache."""
        self._cleanup.close()

    def fresh_cache(self) -> AbstractContextManager[Path]:
        """Inside, the cache is empty; a suite can add what takes long to compute."""
        return fresh_cache()

    # ------------------------------------------------------------ building it

    def registry(self) -> Registry:
        """The registry of the plugin."""
        return default_registry()

    def offer(self) -> Offer:
        """The plugin's offer."""
        return self.registry().get(self.kind, self.plugin)

    def make_config(self, **changes: Any) -> Any:
        """The configuration to test, with some values changed."""
        given = [GivenValues({**self.config, **changes}, "contract", f"{self.plugin}.config")]
        return resolve_config(
            self.offer(), model=TINY, preset=self.preset, given=given, n_layers=self.n_layers
        ).config

    def n_layers(self) -> int | None:
        """Number of layers for the editor's layer rule."""
        return None

    def make(self, **changes: Any) -> Any:
        """Build a new instance."""
        return self.registry().build(self.kind, self.plugin, self.make_config(**changes))

    def try_out(self) -> None:
        """Raise an error if nothing can be tested with this configuration."""
        self.make()

    # ------------------------------------------------------------ rules for spec and config

    def test_summary_is_one_line(self) -> None:
        """The spec's summary is one line.

        `editkit plugins` and `editkit describe` show it: describe in a few words what the
        plugin does.
        """
        summary = self.offer().spec.summary
        require(
            isinstance(summary, str) and summary.strip() and "\n" not in summary,
            f"the spec's summary is {summary!r}.",
        )

    def test_importing_spec_and_config_loads_no_torch(self) -> None:
        """Importing the plugin's module and its config's module does not load torch.

        Refer to classes in the spec as "package.module:Name", and import torch only where
        the work is done: every `editkit plugins` and `--help` waits for these imports.
        """
        offer = self.offer()
        spec: Any = offer.spec
        modules = [spec.config.partition(":")[0], *_entry_modules(offer)]
        arguments = [json.dumps(each) for each in (sys.path, modules, _HEAVY)]
        done = subprocess.run(
            [sys.executable, "-c", _IMPORTED, *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        require(not done.returncode, f"importing {' and '.join(modules)} fails: {last}.")
        loaded = json.loads(done.stdout.strip().splitlines()[-1])
        require(not loaded, f"importing {' and '.join(modules)} loads {', '.join(loaded)}.")

    def test_config_is_documented(self) -> None:
        """The config class and all of its fields have docstrings.

        Put a docstring below each field; `editkit describe` shows it.
        """
        schema = config_class(self.offer())
        missing = list(_undocumented(schema))
        require(not missing, f"no docstring: {', '.join(missing)}.")

    def test_config_refuses_unknown_keys(self) -> None:
        """The config refuses unknown keys, and numbers that are not finite.

        Subclass editkit.Config, and do not change its model_config.
        """
        config = self.make_config()
        for name, value in (("no_such_field", 1), *_not_finite(config)):
            try:
                type(config).model_validate(
                    {**config.model_dump(), **_not_written(config), name: value}
                )
            except ValidationError:
                continue
            raise ContractError(f"the config accepts {name} = {value!r}.")

    def test_config_is_frozen(self) -> None:
        """The config is immutable.

        The configuration is part of the key of stored results: subclass editkit.Config, and
        do not change its model_config.
        """
        config = self.make_config()
        for name in type(config).model_fields:
            try:
                setattr(config, name, getattr(config, name))
            except ValidationError:
                continue
            raise ContractError(f"the config's field {name} can be set.")

    def test_config_survives_json(self) -> None:
        """The config is unchanged after it is written as JSON and read back.

        Use plain types: numbers, texts, tuples, nested configs.
        """
        config = self.make_config()
        written = json.dumps(config.model_dump(mode="json"))
        try:
            again = type(config).model_validate({**json.loads(written), **_not_written(config)})
        except ValidationError as error:
            raise ContractError(
                f"{written} is refused when it is read back: {problems_of(error)}."
            ) from None
        require(again == config, f"{written} is read as {again!r}, which differs from {config!r}.")

    def test_it_can_be_made(self) -> None:
        """The class is built from its config, implements the interface, and keeps the config.

        Subclass the interface from editkit, and call super().__init__(config).
        """
        config = self.make_config()
        made = self.registry().build(self.kind, self.plugin, config)
        require(
            isinstance(made, self.base),
            f"the factory returned a {type(made).__name__}, expected an instance of "
            f"editkit.{self.base.__name__}.",
        )
        kept = getattr(made, "config", None)
        require(isinstance(kept, Config), f"its attribute config is {kept!r}, expected a config.")


TINY = ModelIdentity("tiny", (KnownAs("tiny", "a tiny model of editkit.testing", proven=True),))
"""The tiny models' identity: their files of values are ``tiny.yaml``."""


def rules_of(suite: type[Contract]) -> list[Rule]:
    """The rules of a suite in order; those shared by all kinds are first."""
    names = dict.fromkeys(
        name for cls in reversed(suite.__mro__) for name in vars(cls) if name.startswith("test_")
    )
    return [_rule(suite, name) for name in names]


def _rule(suite: type[Contract], name: str) -> Rule:
    text, _, advice = (inspect.getdoc(getattr(suite, name)) or name).partition("\n")
    return Rule(name, text.strip().removesuffix("."), " ".join(advice.split()))


def _entry_modules(offer: Offer) -> list[str]:
    """The module of the plugin's entry point; empty for a plugin registered in the process."""
    return [
        entry.value.partition(":")[0]
        for entry in importlib.metadata.entry_points(group=GROUP, name=offer.source.plugin)
        if entry.dist is not None and entry.dist.name == offer.source.distribution
    ]


def _undocumented(schema: type[BaseModel], prefix: str = "") -> Iterator[str]:
    if not (vars(schema).get("__doc__") or "").strip():
        yield f"the class {schema.__name__}"
    for name, field in schema.model_fields.items():
        section = field.annotation
        if not (field.description or "").strip():
            yield f"the field {prefix}{name}"
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from _undocumented(section, f"{prefix}{name}.")


def _not_written(config: Config) -> dict[str, Any]:
    """The values of fields that are declared with ``exclude=True``."""
    fields = type(config).model_fields.items()
    return {name: getattr(config, name) for name, field in fields if field.exclude}


def _not_finite(config: BaseModel) -> list[tuple[str, float]]:
    """NaN for each field that has a float."""
    return [
        (name, float("nan"))
        for name in type(config).model_fields
        if type(getattr(config, name)) is float
    ]
