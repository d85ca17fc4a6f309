"""Checking a contract without pytest, with one outcome per rule."""

from __future__ import annotations

import dataclasses
import logging
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal
from unittest import SkipTest

import torch
import transformers

import editkit
from editkit.editing.outcomes import unwatched
from editkit.errors import EditkitError, first_line
from editkit.registry.plugins import Offer
from editkit.registry.specs import Kind
from editkit.testing.contract import Contract, ContractError, Rule, rules_of
from editkit.testing.datasets import DatasetContract
from editkit.testing.editors import EditorContract
from editkit.testing.judges import JudgeContract
from editkit.testing.locators import LocatorContract
from editkit.testing.metrics import MetricContract
from editkit.testing.model_metrics import ModelMetricContract

__all__ = ["CONTRACTS", "Outcome", "check", "outcome_of"]

CONTRACTS: Mapping[Kind, type[Contract]] = {
    "editor": EditorContract,
    "locator": LocatorContract,
    "metric": MetricContract,
    "model_metric": ModelMetricContract,
    "judge": JudgeContract,
    "dataset": DatasetContract,
}
_TRIAL = Rule(
    "try_out",
    "It can be tested with its configuration",
    "Give values with --set. Models are tiny, with four layers; an editor can ship values for them "
    "in a file tiny.yaml in its configs folder.",
)
_LIBRARIES = (editkit.__file__, torch.__file__, transformers.__file__)
_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The outcome of one rule.

    Attributes:
        rule: The rule.
        status: ``ok``, ``fail``, or ``skip`` if the rule does not apply.
        reason: Why it is broken or does not apply; empty for ``ok``.
    """

    rule: Rule
    status: Literal["ok", "fail", "skip"]
    reason: str = ""


def check(
    offer: Offer, config: Mapping[str, Any] | None = None, *, preset: str | None = None
) -> Iterator[Outcome]:
    """Check an offer against the rules of its kind.

    If it cannot be tested at all, there is only one outcome, which says so.

    Args:
        offer: An editor, locator, metric, metric of models, judge or dataset.
        config: Values to test it with.
        preset: The preset to test it with.
    """
    values = {"plugin": offer.name, "config": dict(config or {}), "preset": preset}
    base = CONTRACTS[offer.kind]
    suite = type(base.__name__, (base,), values)
    trial = outcome_of(suite, _TRIAL)
    yield trial
    if trial.status == "ok":
        for rule in rules_of(suite):
            yield outcome_of(suite, rule)


def outcome_of(suite: type[Contract], rule: Rule) -> Outcome:
    """Check one rule of a suite; an error raised by the plugin becomes the outcome."""
    checks = suite()
    checks.setup_method()
    try:
        with unwatched():  # whether an edit takes effect on a random model is not a rule
            getattr(checks, rule.method)()
    except SkipTest as reason:
        return Outcome(rule, "skip", str(reason))
    except (Exception, SystemExit) as error:
        _log.debug("%s", rule.text, exc_info=True)
        return Outcome(rule, "fail", _reason(error))
    finally:
        checks.teardown_method()
    return Outcome(rule, "ok")


def _reason(error: BaseException) -> str:
    """What went wrong; for an unforeseen error, with its last line in the plugin's own code."""
    if isinstance(error, (ContractError, EditkitError)):
        return str(error)
    frames = traceback.extract_tb(error.__traceback__)
    plugin_frames = [frame for frame in frames if not _is_library(Path(frame.filename))]
    place = (plugin_frames or frames)[-1]
    return f"{first_line(error, named=True)} ({place.filename}, line {place.lineno})"


def _is_library(file: Path) -> bool:
    return any(str(Path(library).parent) in map(str, file.parents) for library in _LIBRARIES)
