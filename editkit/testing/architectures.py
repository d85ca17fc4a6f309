"""The self-check of architectures, for tests of plugins."""

from __future__ import annotations

from transformers import PretrainedConfig

from editkit.models.architectures import Architecture
from editkit.models.language_model import LanguageModel
from editkit.selfcheck.check import Outcome, check_config, check_model
from editkit.testing.contract import ContractError

__all__ = ["check_architecture"]


def check_architecture(
    subject: LanguageModel | PretrainedConfig, architecture: Architecture | None = None
) -> list[Outcome]:
    """Check every rule of ``editkit check-architecture``.

    Args:
        subject: A model, or a config of transformers: then a small random model is built from it.
        architecture: The entry for a config; None: the one that is known for its model type.

    Raises:
        ContractError: A rule is broken; the message lists all broken rules.
    """
    if isinstance(subject, LanguageModel):
        outcomes = list(check_model(subject))
    else:
        outcomes = list(check_config(subject, architecture))
    broken = [f"{each.rule}: {each.reason}" for each in outcomes if each.verdict == "FAIL"]
    if broken:
        raise ContractError(f"{len(broken)} rules are broken: {'; '.join(broken)}")
    return outcomes
