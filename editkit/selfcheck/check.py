"""Running the rules on a model, or on a small random one with its config; verdicts are cached."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
from collections.abc import Iterator
from typing import Any, Literal

import torch
import transformers
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from editkit.errors import CacheError, ModelError, first_line
from editkit.models.architectures import Architecture
from editkit.models.language_model import LanguageModel
from editkit.models.lookup import adapted, assuming
from editkit.selfcheck.proposal import proposals
from editkit.selfcheck.rules import RULES, Broken, NotApplicable, Rule
from editkit.selfcheck.small import small_model, word_tokenizer
from editkit.storage.cache import cached_texts
from editkit.storage.digests import key_of, plain

__all__ = [
    "Outcome",
    "Proposal",
    "check_config",
    "check_model",
    "find_unlisted",
    "first_failure",
    "proposal_for",
    "refuse_unsound",
    "skeleton",
]

_log = logging.getLogger(__name__)
_GUIDE = "'editkit explain architectures' shows how to add one."


@dataclasses.dataclass(frozen=True)
class Outcome:
    """One rule, checked on one model.

    Attributes:
        rule: The rule's name.
        summary: What must hold.
        verdict: ``skipped`` if the model has nothing that the rule applies to.
        reason: Why it failed or was skipped.
    """

    rule: str
    summary: str
    verdict: Literal["ok", "FAIL", "skipped"]
    reason: str = ""


def check_model(model: LanguageModel) -> Iterator[Outcome]:
    """Check every rule on a model; its weights are the same afterwards, bit for bit.

    After a broken rule ``modules`` nothing else can be checked.
    """
    for rule in RULES:
        outcome = _checked(rule, model)
        yield outcome
        if rule.name == "modules" and outcome.verdict == "FAIL":
            return


def _checked(rule: Rule, model: LanguageModel) -> Outcome:
    try:
        with torch.no_grad():
            rule.check(model)
    except NotApplicable as reason:
        return Outcome(rule.name, rule.summary, "skipped", str(reason))
    except Broken as reason:
        return Outcome(rule.name, rule.summary, "FAIL", str(reason))
    except Exception as error:  # a wrong entry makes the library raise anything
        text = f"{rule.needs}, but the library raised {first_line(error, named=True)}"
        return Outcome(rule.name, rule.summary, "FAIL", text)
    return Outcome(rule.name, rule.summary, "ok")


def check_config(
    config: PretrainedConfig, architecture: Architecture | None = None
) -> Iterator[Outcome]:
    """Check every rule on a small random model with a config's structure.

    Args:
        config: The config.
        architecture: The entry to check; None: the one that is known for the model type.

    Raises:
        ModelError: No small model can be built from the config.
    """
    hf = small_model(config)
    with contextlib.ExitStack() as stack:
        if architecture is not None:
            stack.enter_context(assuming(architecture))
        try:
            model = LanguageModel(hf, word_tokenizer(), name=f"small {config.model_type}")
        except ModelError as error:
            yield Outcome(RULES[0].name, RULES[0].summary, "FAIL", error.message)
            return
        yield from check_model(model)


# ---------------------------------------------------------------- verdicts


def first_failure(config: PretrainedConfig, architecture: Architecture) -> Outcome | None:
    """The first broken rule of an entry on a small random model; None if it keeps all of them.

    The verdict is cached by model type, config, entry, and version of transformers and torch.

    Raises:
        ModelError: No small model can be built from the config.
        PluginError: The entry's ``for_config`` is wrong.
    """
    return _verdict(config, architecture)[0]


def _verdict(config: PretrainedConfig, architecture: Architecture) -> tuple[Outcome | None, int]:
    """As :func:`first_failure`, with the number of rules that applied and were kept."""
    entry = dataclasses.replace(adapted(architecture, config), for_config=None)

    def check() -> list[str]:
        kept = 0
        for each in check_config(config, entry):
            if each.verdict == "FAIL":
                return [str(kept), each.rule, each.summary, each.reason]
            kept += each.verdict == "ok"
        return [str(kept)]

    description = {
        "model_type": config.model_type,
        "config": key_of(plain(_stated(config))),
        "entry": repr(entry),
        "rules": [rule.name for rule in RULES],
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    try:
        texts = cached_texts("architectures", {**description, "counted": True}, check)
    except CacheError as error:  # a verdict can be computed again
        _log.debug("the verdict is not cached: %s", error)
        texts = check()
    kept, *broken = texts
    return Outcome(broken[0], broken[1], "FAIL", broken[2]) if broken else None, int(kept)


def _stated(config: PretrainedConfig) -> dict[str, Any]:
    dropped = ("_name_or_path", "transformers_version", "dtype", "torch_dtype", "architectures")
    return {k: repr(v) for k, v in sorted(config.to_dict().items()) if k not in dropped}


def refuse_unsound(config: PretrainedConfig, architecture: Architecture, origin: str) -> None:
    """Refuse an entry that breaks a rule on models of a config.

    Args:
        config: The config.
        architecture: The entry.
        origin: Who offers it, for the message.

    Raises:
        ModelError: A rule is broken; the message names it.
    """
    failed = first_failure(config, architecture)
    if failed is not None:
        raise ModelError(
            f"rule {failed.rule!r} failed for model_type {config.model_type!r}, whose entry comes "
            f"from {origin}: {failed.reason}.",
            hint="'editkit check-architecture FOLDER' lists every rule. " + _GUIDE,
        )


def find_unlisted(config: PretrainedConfig) -> Architecture | None:
    """An entry for a model type outside the table, if one of the table's layouts keeps all rules.

    Returns:
        None if no entry of the table has the model's modules.

    Raises:
        ModelError: One has them, but breaks a rule; the message names it.
    """
    key = key_of(plain({"model_type": config.model_type, **_stated(config)}))
    return _found_entry(_Keyed(key, config))


@dataclasses.dataclass(frozen=True)
class _Keyed:
    """A config that is hashed and compared by its content."""

    key: str
    config: PretrainedConfig = dataclasses.field(compare=False)


@functools.lru_cache(maxsize=32)
def _found_entry(keyed: _Keyed) -> Architecture | None:
    config = keyed.config
    proposal = proposal_for(config)
    if proposal is None:
        return None
    failed = proposal.failed
    if failed is not None:
        raise ModelError(
            f"model type {config.model_type!r} is not in editkit's table. Its modules are named as "
            f"those of {proposal.like}, but rule {failed.rule!r} failed for model_type "
            f"{config.model_type!r}: {failed.reason}.",
            hint="'editkit check-architecture FOLDER' lists every rule, the fields to change and "
            "the model's modules. " + _GUIDE,
        )
    _log.warning(
        "model type %r is not in editkit's tested table; its modules are named as those of %s, and "
        "a small random model of it passed the %d rules of check-architecture",
        config.model_type,
        proposal.like,
        proposal.kept,
    )
    return proposal.entry


@dataclasses.dataclass(frozen=True)
class Proposal:
    """An entry for a model type outside the table.

    Attributes:
        entry: The entry.
        like: The family of the table that has the same module names.
        failed: The first rule that it breaks; None if it keeps all of them.
        kept: How many rules apply and hold, up to the first that it breaks.
    """

    entry: Architecture
    like: str
    failed: Outcome | None
    kept: int


def proposal_for(config: PretrainedConfig) -> Proposal | None:
    """The first entry of the table that fits a config and keeps all rules, else the best one.

    Returns:
        None if no entry has the model's modules, or no causal language model can be built.
    """
    hf = skeleton(config)
    if hf is None:
        return None
    order = [rule.name for rule in RULES]
    best: Proposal | None = None
    furthest = -1
    for like, entry in proposals(hf):
        proposal = Proposal(entry, like, *_verdict(config, entry))
        if proposal.failed is None:
            return proposal
        reached = order.index(proposal.failed.rule)
        if reached > furthest:
            best, furthest = proposal, reached
    return best


def skeleton(config: PretrainedConfig) -> PreTrainedModel | None:
    """The model of a config without values; None if it is not a causal language model."""
    try:
        with torch.device("meta"):
            hf: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    except Exception as error:  # not a causal language model, or a config that describes nothing
        _log.debug("no model of %s can be built", config.model_type, exc_info=error)
        return None
    return hf
