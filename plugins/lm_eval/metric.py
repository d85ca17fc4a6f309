"""The metric ``lm-eval``: what does the edited model score in tasks of lm-evaluation-harness?

The harness asks, scores and aggregates. Its model is the edited model itself: the edit is applied
to the weights, as an exported folder has it, and the original weights are restored afterwards.
Scores, their names and their standard errors are those of the harness; the only numbers added are
differences from the unedited model, which is measured once per model.
"""

from __future__ import annotations

import copy
import functools
import math
import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from editkit import (
    EditedModels,
    LanguageModel,
    MetricRow,
    ModelError,
    ModelMetric,
    WeightDelta,
    applied,
)
from editkit.editing.next_tokens import MOST_NATS
from editkit_plugins.lm_eval.config import LmEvalConfig
from editkit_plugins.lm_eval.harness import harness
from editkit_plugins.lm_eval.tasks import change_key, score_key

__all__ = ["LmEval"]

_Results = dict[str, float | list[float]]


class LmEval(ModelMetric[LmEvalConfig]):
    """Scores of the edited model in tasks of lm-evaluation-harness."""

    def __init__(self, config: LmEvalConfig) -> None:
        super().__init__(config)
        self._unedited: tuple[str, _Results] | None = None
        self._reported: set[str] = set()

    def prepare(self, model: LanguageModel) -> None:
        """Run the tasks on the unedited model."""
        if self.config.apply_chat_template:
            _ = model.chat_template  # raises here, once, if there is none
        _check_tokenizer(model)
        self._of_unedited(model)

    def score(self, models: EditedModels) -> list[MetricRow]:
        """The harness's scores, standard errors and numbers of documents, and the differences."""
        before = self._of_unedited(models.model)
        known: dict[str, MetricRow] = {}
        rows = []
        for edit, delta in enumerate(models.deltas):
            digest = delta.digest()
            if digest not in known:
                is_edited = bool(delta.changes) or delta.context is not None
                results = self._run(models, edit) if is_edited else before
                known[digest] = self._row(results, before)
            rows.append(known[digest])
        return rows

    def _of_unedited(self, model: LanguageModel) -> _Results:
        """The results of a model as it is; only the latest one's are kept."""
        fingerprint = model.fingerprint
        if self._unedited is None or self._unedited[0] != fingerprint:
            none = WeightDelta({}, None, "none", {}, fingerprint)
            self._unedited = fingerprint, self._run(EditedModels(model, [none]), 0)
        return self._unedited[1]

    def _row(self, results: _Results, before: _Results) -> MetricRow:
        scores = {key: value for key, value in results.items() if isinstance(value, float)}
        old = {key: value for key, value in before.items() if isinstance(value, float)}
        changes = {change_key(key): scores[key] - old[key] for key in scores if key in old}
        return {**results, **changes}

    # ------------------------------------------------------------ running the tasks

    def _run(self, models: EditedModels, edit: int) -> _Results:
        """The harness's results on one edited model, by our keys."""
        loaded, config, delta = self.config.loaded, self.config, models.deltas[edit]
        with (
            harness(self._reported),
            applied(models.model, delta.without_context()) as model,
            model.frozen(),
        ):
            from lm_eval.evaluator import evaluate

            from editkit_plugins.lm_eval.adapter import EditedLM

            lm = EditedLM(
                model.hf,
                copy.deepcopy(model.tokenizer),
                batch_size=config.batch_size,
                read_as=None
                if delta.context is None
                else functools.partial(models.in_context, edit),
                chat=config.apply_chat_template,
            )
            random.seed(config.random_seed)
            np.random.seed(config.numpy_random_seed)
            torch.manual_seed(config.torch_random_seed)
            for task in loaded.tasks.values():  # their generators have moved on since the last run
                task.set_fewshot_seed(seed=config.fewshot_random_seed)
            answer = evaluate(
                lm=lm,
                task_dict={"tasks": dict(loaded.tasks), "groups": dict(loaded.groups)},
                limit=config.limit,
                bootstrap_iters=config.bootstrap_iters,
                log_samples=False,
                system_instruction=config.system_instruction,
                apply_chat_template=config.apply_chat_template,
                fewshot_as_multiturn=config.fewshot_as_multiturn,
            )
        return _results(answer)


def _check_tokenizer(model: LanguageModel) -> None:
    """Refuse a tokenizer with which the harness would score end tokens amid texts.

    Raises:
        ModelError: It appends a token to every text.
    """
    ids = model.tokenizer("a")["input_ids"]
    if ids[-1] in model.special.ids:
        raise ModelError(
            f"the tokenizer of {model.name} appends {model.tokenizer.decode(ids[-1:])!r} to every "
            "text, and lm-evaluation-harness would read it between prompt and answer.",
            hint="Set add_eos_token to false in the model's tokenizer_config.json.",
        )


def _results(answer: Mapping[str, Any]) -> _Results:
    """Scores as numbers; standard errors and numbers of documents as details."""
    results: _Results = {}
    for task, values in answer["results"].items():
        directions = answer["higher_is_better"].get(task, {})
        for metric, value in values.items():
            name, comma, chosen = metric.partition(",")
            if not comma or isinstance(value, str):  # "N/A": the harness gives no standard error
                continue
            key, number = score_key(task, metric), float(value)
            if name.endswith("_stderr"):
                error = score_key(task, f"{name.removesuffix('_stderr')},{chosen}")
                if math.isfinite(number):
                    results[f"{error}_stderr"] = [number]
            else:
                results[key] = _finite(number, higher_is_better=directions.get(name))
        if "sample_len" in values:
            results[f"{score_key(task, '')}documents"] = [float(values["sample_len"])]
    return results


def _finite(value: float, *, higher_is_better: bool | None) -> float:
    """A score; the worst one for a model whose weights overflowed."""
    if math.isfinite(value):
        return value
    return 0.0 if higher_is_better else math.exp(MOST_NATS)
