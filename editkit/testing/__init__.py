"""Contracts: rules that plugins test themselves against, on tiny models built in the process.

A subclass of a contract names an installed plugin; pytest collects it and checks the rules.
``editkit check-plugin NAME`` checks the same rules from the command line.
"""

from __future__ import annotations

from editkit.testing.architectures import check_architecture
from editkit.testing.contract import Contract, ContractError, Rule, rules_of
from editkit.testing.datasets import DatasetContract
from editkit.testing.editors import EditorContract
from editkit.testing.judges import JudgeContract
from editkit.testing.locators import LocatorContract
from editkit.testing.metrics import MetricContract
from editkit.testing.model_metrics import ModelMetricContract
from editkit.testing.models import ARCHITECTURES, tiny_model, tiny_tokenizer

__all__ = [
    "ARCHITECTURES",
    "Contract",
    "ContractError",
    "DatasetContract",
    "EditorContract",
    "JudgeContract",
    "LocatorContract",
    "MetricContract",
    "ModelMetricContract",
    "Rule",
    "check_architecture",
    "rules_of",
    "tiny_model",
    "tiny_tokenizer",
]
