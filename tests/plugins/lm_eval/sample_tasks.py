"""One task of every output type in local files, about facts that atlas knows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCUMENTS = [
    {"place": "Kenya", "capital": "Nairobi", "wrong": ["Paris", "Berlin"]},
    {"place": "France", "capital": "Paris", "wrong": ["Rome", "Nairobi"]},
    {"place": "Germany", "capital": "Berlin", "wrong": ["Munich", "Madrid"]},
    {"place": "Italy", "capital": "Rome", "wrong": ["Milan", "Paris"]},
    {"place": "Spain", "capital": "Madrid", "wrong": ["Rome", "Lisbon"]},
]

_PROMPT = "The capital of {{place}} is"
_TASKS: Mapping[str, Mapping[str, Any]] = {
    "choices": {
        "output_type": "multiple_choice",
        "doc_to_text": _PROMPT,
        "doc_to_choice": "{{[capital] + wrong}}",
        "doc_to_target": 0,
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "answers": {
        "output_type": "loglikelihood",
        "doc_to_text": _PROMPT,
        "doc_to_target": " {{capital}}",
        "target_delimiter": "",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "writing": {
        "output_type": "generate_until",
        "doc_to_text": _PROMPT,
        "doc_to_target": "{{capital}}",
        "generation_kwargs": {"until": [".", "\n"], "max_gen_toks": 6},
        "filter_list": [
            {"name": "whole", "filter": [{"function": "take_first"}]},
            {
                "name": "first word",
                "filter": [
                    {"function": "regex", "regex_pattern": r"^\s*(\w+)"},
                    {"function": "take_first"},
                ],
            },
        ],
        "metric_list": [
            {
                "metric": "exact_match",
                "aggregation": "mean",
                "higher_is_better": True,
                "ignore_case": True,
            }
        ],
    },
    "reading": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "The capital of {{place}} is {{capital}}, as everybody says.",
        "metric_list": [
            {"metric": name, "aggregation": aggregation, "higher_is_better": False}
            for name, aggregation in (
                ("word_perplexity", "weighted_perplexity"),
                ("byte_perplexity", "weighted_perplexity"),
                ("bits_per_byte", "bits_per_byte"),
            )
        ],
    },
}
NAMES = tuple(_TASKS)


def write_task(folder: Path, name: str, **changes: Any) -> str:
    """Write a task with its documents; returns the path of its file."""
    data = folder / f"{name}.jsonl"
    data.write_text("".join(json.dumps(each) + "\n" for each in DOCUMENTS), encoding="utf-8")
    content = {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "test_split": "test",
        "fewshot_split": "test",
        "metadata": {"version": 1.0},
        **_TASKS[name],
        **changes,
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(path)


def write_tasks(folder: Path) -> tuple[str, ...]:
    """Write a task of every output type; returns the paths of their files."""
    return tuple(write_task(folder, name) for name in NAMES)
