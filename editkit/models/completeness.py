"""Whether a checkpoint holds exactly the weights that its model has.

The library fills in random numbers for weights that a checkpoint lacks, and drops those that the
model has no place for. Both would give numbers of a model that nobody trained.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Iterator, Mapping, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit.models.model_files import TensorHeader, headers_of
from editkit.models.problems import Problem, some

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

__all__ = ["LoadingReport", "incomplete", "quiet", "report_of_headers", "wrong_types"]

LoadingReport = Mapping[str, Any]
"""What transformers reports: ``missing_keys``, ``unexpected_keys`` and ``mismatched_keys``."""

_BUFFERS = re.compile(
    r"(^|\.)(attn|attention|self_attn)\.(masked_)?bias$|rotary_emb\.inv_freq$|(^|\.)position_ids$"
)
"""Masks and positions that older releases of transformers stored; newer ones compute them."""
_FLOATING = ("F64", "F32", "F16", "BF16")


def report_of_headers(folder: Path, config: PretrainedConfig) -> tuple[PreTrainedModel, Any]:
    """What the library would report when it loads a checkpoint, from the headers of its files.

    Args:
        folder: A folder without :func:`~editkit.models.checkpoint.problems_of`.
        config: Its config.

    Returns:
        The model without values, on the meta device, and the report.
    """
    import torch
    from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

    state = {
        name: torch.empty(header.shape, device="meta")
        for name, header in headers_of(folder).items()
    }
    with quiet():
        model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
            None,
            config=config,
            state_dict=state,
            device_map={"": "meta"},
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            dtype=torch.float32,
        )
    return model, report


def incomplete(model: PreTrainedModel, report: LoadingReport, shown: str) -> list[Problem]:
    """What a loading report means for the numbers that the model would give."""
    found = []
    if missing := sorted(report["missing_keys"]):
        found.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} lacks {len(missing)} of the model's weights "
                f"({some(missing)}), which would be random.",
                "Check that config.json belongs to these weights, and that the checkpoint was "
                "saved whole: for a causal language model, with save_pretrained.",
            )
        )
    if mismatched := sorted(report["mismatched_keys"]):
        name, has, expected = mismatched[0]
        found.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} has {_weights(mismatched)} of other shapes "
                f"than its config says: {name} is {_shape(has)}, expected {_shape(expected)}.",
                "Check that config.json belongs to these weights.",
            )
        )
    unexpected = sorted(n for n in report["unexpected_keys"] if not _BUFFERS.search(n))
    inside = [name for name in unexpected if _is_inside(model, name)]
    if inside:
        found.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} has {_weights(inside)} that the model has no "
                f"place for ({some(inside)}): without them it computes something else.",
                "Check that config.json belongs to these weights (number of layers, model_type, "
                "biases).",
            )
        )
    if outside := [name for name in unexpected if name not in inside]:
        found.append(
            Problem(
                "weights",
                f"the checkpoint of model {shown!r} holds {_weights(outside)} beside the language "
                f"model, not used ({some(outside)}).",
                "Check that it was saved as a causal language model.",
                "warning",
            )
        )
    return found


def wrong_types(
    model: PreTrainedModel, headers: Mapping[str, TensorHeader], shown: str
) -> list[Problem]:
    """Weights that are stored as integers or codes: cast to floats they would be other numbers."""
    prefix = f"{model.base_model_prefix}."
    parameters = {name for name, _ in model.named_parameters()}
    wrong = [
        (name, header.dtype)
        for name, header in sorted(headers.items())
        if header.dtype not in _FLOATING
        and ({name, prefix + name, name.removeprefix(prefix)} & parameters)
    ]
    if not wrong:
        return []
    name, dtype = wrong[0]
    return [
        Problem(
            "weights",
            f"the checkpoint of model {shown!r} stores {_weights(wrong)} not as floats: {name} is "
            f"{dtype}, so it is quantised or damaged.",
            "Use the unquantised checkpoint that it was made from.",
        )
    ]


def _is_inside(model: PreTrainedModel, name: str) -> bool:
    """Whether a tensor's name is in a part that the language model has: its blocks, its head."""
    parts = {part for part, _ in (*model.named_children(), *model.base_model.named_children())}
    return name.removeprefix(f"{model.base_model_prefix}.").partition(".")[0] in parts


def _weights(found: Sized) -> str:
    return "1 weight" if len(found) == 1 else f"{len(found)} weights"


def _shape(shape: Any) -> str:
    return " x ".join(map(str, shape)) or "a single number"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bar and no chatter of transformers inside; errors are still raised."""
    from transformers.utils import logging as hf_logging

    logger = logging.getLogger("transformers")
    level, bars = logger.level, hf_logging.is_progress_bar_enabled()
    try:
        logger.setLevel(logging.ERROR)
        hf_logging.disable_progress_bar()
        yield
    finally:
        logger.setLevel(level)
        if bars:
            hf_logging.enable_progress_bar()
