"""Shipping patches as a LoRA adapter in PEFT's layout, with their exact rank.

A change of a linear module, ``x W -> x (W + L R)`` with ``L`` (in, r) and ``R`` (r, out), is an
adapter with ``lora_A = L'``, ``lora_B = R'`` and the scaling ``lora_alpha / r = 1``. So

- a low-rank change is written as it is;
- a change of n rows has one-hot columns in ``L``, and the rows in ``R``;
- a dense change is factored if its rank is low up to the rounding of float32.

Everything else is refused. All modules get the same r, with zeros in those that need fewer: vLLM
reads one r and one alpha for all modules. ``target_modules`` has full names, since PEFT takes a
name as the end of others.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from editkit.editing.changes import Change, LowRank, Rows, moved
from editkit.errors import DeltaError
from editkit.models.checkpoint import read_json
from editkit.models.placement import Placement, placement_of
from editkit.models.text_part import has_text_part
from editkit.models.weight_layout import is_input_major, is_matrix_module
from editkit.patches.combining import check_combinable
from editkit.patches.content import PatchContent
from editkit.patches.sources import (
    PROVENANCE,
    Edits,
    Source,
    check_belongs,
    check_target,
    contents,
    described,
    provenance_text,
    source_of,
    writing_export,
)
from editkit.registry.models import local_folder
from editkit.storage.new_folder import new_folder

__all__ = ["LoraExport", "export_lora", "factors_of", "vllm_warnings"]

_ROUNDING = 2.0**-20  # of a change's norm: several roundings of float32, whose step is 2**-23
_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as ``max_lora_rank``; its default is 16."""
_DEFAULT_RANK = 16
_WITHOUT_LORA = (
    "bloom", "falcon", "gpt2", "gpt_neox", "gptj", "iquestcoder", "jais2", "mpt", "olmoe",
    "stablelm",
)  # fmt: skip
"""Families that vLLM serves without LoRA, from its table of supported models."""


@dataclasses.dataclass(frozen=True)
class LoraExport:
    """An adapter that was written.

    Attributes:
        folder: The folder.
        model: Name of the base model.
        base: What ``adapter_config.json`` names as the base model: a hub id or a folder.
        rank: r of the adapter.
        ranks: Rank of the change of each module.
        warnings: What vLLM cannot do with it.
    """

    folder: Path
    model: str
    base: str
    rank: int
    ranks: Mapping[str, int] = dataclasses.field(repr=False)
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """The export as plain data."""
        return {
            "format": "lora",
            **vars(self),
            "folder": str(self.folder),
            "ranks": dict(self.ranks),
            "warnings": list(self.warnings),
        }

    def lines(self) -> list[str]:
        """What was written, in sentences."""
        n = len(self.ranks)
        return [
            f"{self.folder}: a LoRA adapter of rank {self.rank} for {self.model}, "
            f"{n} module{'' if n == 1 else 's'}",
            *self.warnings,
        ]

    def snippet(self) -> str:
        """Two lines of Python that load the adapter with its base model, without editkit."""
        return (
            "from peft import AutoPeftModelForCausalLM\n"
            f"model = AutoPeftModelForCausalLM.from_pretrained({str(self.folder)!r})"
        )


def export_lora(
    patches: Edits,
    model: str | None,
    out: str | Path,
    *,
    revision: str | None = None,
    force: bool = False,
    names: Sequence[str] | None = None,
) -> LoraExport:
    """Write patches as one adapter, which PEFT and vLLM load on top of the unedited model.

    Args:
        patches: One or several, in order.
        model: A registered name, a folder, or a hub id; None: the model that they were made on.
        out: The new folder; it must not exist, or be empty.
        revision: Branch, tag or commit of a hub model.
        force: Accept a patch of another model, the same patch twice, and two for one fact.
        names: What errors call the patches, such as their files.

    Raises:
        DeltaError: A change is not a low-rank change of a linear module, a patch does not belong to
            the model, or the folder cannot be written.
        ModelError: The model cannot be read.
    """
    edits, target = contents(patches), Path(out)
    source = source_of(edits, model, revision)
    check_combinable(edits, force=force, names=names)
    check_target(source, target)
    check_belongs(source, edits, force=force)
    config = read_json(source.folder / "config.json")
    if has_text_part(config):
        raise DeltaError(
            f"{source.name} is a vision-language model; an adapter for its text part would not fit "
            "the whole model, whose modules have other names.",
            hint=_AS_FOLDER,
        )
    placement = placement_of(source.folder, source.name)
    factors = _all_factors(source, placement, edits)
    rank = max(len(right) for _, right in factors.values())
    tensors = {}
    for name, (left, right) in sorted(factors.items()):
        padding = (0, rank - len(right))
        lora_a = nn.functional.pad(left, padding).T  # (r, in)
        lora_b = nn.functional.pad(right.T, padding)  # (out, r)
        tensors[f"base_model.model.{name}.lora_A.weight"] = lora_a.contiguous()
        tensors[f"base_model.model.{name}.lora_B.weight"] = lora_b.contiguous()
    transposed = any(is_input_major(placement.model.get_submodule(name)) for name in factors)
    base = _base(source)
    adapter = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "revision": source.revision,
        "inference_mode": True,
        "r": rank,
        "lora_alpha": rank,
        "lora_dropout": 0.0,
        "target_modules": sorted(factors),
        "fan_in_fan_out": transposed,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
    }
    _write(source, edits, target, adapter, tensors)
    ranks = {name: len(right) for name, (_, right) in sorted(factors.items())}
    warnings = vllm_warnings(str(config["model_type"]), rank, ranks)
    if source.is_gguf:
        warnings.append(
            f"The base model is the dequantised copy of {source.files.name} in the cache. "
            "llama.cpp's convert_lora_to_gguf.py makes an adapter for the GGUF file itself."
        )
    return LoraExport(target, source.name, base, rank, ranks, tuple(warnings))


def _base(source: Source) -> str:
    """The hub id, or the folder of the base model."""
    if local_folder(source.name) is None:
        return source.name
    return str(source.folder.resolve())


def _write(
    source: Source,
    patches: Sequence[PatchContent],
    target: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
) -> None:
    from safetensors.torch import load_file, save

    with writing_export(target), new_folder(target) as folder:
        path = folder / "adapter_model.safetensors"
        path.write_bytes(save(dict(tensors), metadata={"format": "pt"}))
        written = load_file(path)
        if any(not torch.equal(written[name], tensor) for name, tensor in tensors.items()):
            raise OSError("the written factors differ from those in memory")
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (folder / "adapter_config.json").write_text(text, encoding="utf-8")
        result = {"format": "lora", "rank": config["r"], "modules": config["target_modules"]}
        document = {**described(source, patches), "result": result}
        (folder / PROVENANCE).write_text(provenance_text(document), encoding="utf-8")


# ---------------------------------------------------------------- factors


_AS_FOLDER = "Export a folder instead: format folder carries every change of weights."


def _all_factors(
    source: Source, placement: Placement, patches: Sequence[PatchContent]
) -> dict[str, tuple[Tensor, Tensor]]:
    """The factors of each module's change: (in, r) and (r, out) in float32."""
    parts: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for patch in patches:
        for parameter, change in patch.delta.changes.items():
            name = _module_of(source, placement, parameter, change)
            try:
                left, right = factors_of(change)
            except DeltaError as error:
                raise DeltaError(f"{parameter}: {error.message}", hint=error.hint) from None
            if len(right):
                parts.setdefault(name, []).append((left, right))
    if not parts:
        raise DeltaError(
            "the patch changes no weight, so there is nothing to export as an adapter.",
            hint="Check that it is the right file.",
        )
    factors = {}
    for name, some in parts.items():
        left = torch.cat([each for each, _ in some], dim=1)  # (in, r1 + r2 + ...)
        right = torch.cat([each for _, each in some])  # (r1 + r2 + ..., out)
        (n_in, rank), n_out = left.shape, right.shape[1]
        if rank * (n_in + n_out) >= n_in * n_out:
            raise _full_rank(f"{name}.weight: the change has", rank, (n_in, n_out))
        factors[name] = _balanced(left, right)
    return factors


def _module_of(source: Source, placement: Placement, parameter: str, change: Change) -> str:
    """The linear module of a changed parameter.

    Raises:
        DeltaError: The parameter is something else, or is also used elsewhere.
    """
    path, _, kind = parameter.rpartition(".")
    try:
        module: nn.Module = placement.model.get_submodule(path)
        weight = module.get_parameter(kind)
    except AttributeError:
        raise DeltaError(
            f"{source.name} has no parameter {parameter!r}.",
            hint="Check that the patch was made for this architecture.",
        ) from None
    if not is_matrix_module(module) or kind != "weight":
        what = "a bias" if kind == "bias" else f"a parameter of {type(module).__name__}"
        raise DeltaError(
            f"{parameter} is {what}; an adapter changes only the weights of linear modules.",
            hint=_AS_FOLDER,
        )
    shape = tuple(weight.shape) if is_input_major(module) else tuple(weight.shape)[::-1]
    if change.shape != shape:
        raise DeltaError(
            f"the change of {parameter} has the shape {change.shape} (in, out), expected {shape}.",
            hint="Check that the patch was made for a model of this size.",
        )
    if others := placement.names_of_weight(parameter, source.folder) - {parameter}:
        raise DeltaError(
            f"{parameter} is the same weight as {', '.join(sorted(others))}, which an adapter "
            "would leave unchanged.",
            hint=_AS_FOLDER,
        )
    return path


def factors_of(change: Change) -> tuple[Tensor, Tensor]:
    """Factors whose product is a change, in float32 on the CPU.

    Returns:
        (in, r) and (r, out).

    Raises:
        DeltaError: The change has a high rank, or is a vector.
    """
    change = moved(change, torch.device("cpu"))
    if isinstance(change, LowRank):
        return change.left.float(), change.right.float()
    if isinstance(change, Rows):
        left = torch.zeros(change.n_rows, len(change.indices))
        left[change.indices, torch.arange(len(change.indices))] = 1.0
        return left, change.values.float()
    dense = change.dense()
    if dense.ndim != 2:
        raise DeltaError(
            "the change is a vector; an adapter changes only matrices.", hint=_AS_FOLDER
        )
    return _factored(dense)


def _factored(dense: Tensor) -> tuple[Tensor, Tensor]:
    """Factors of the lowest rank that a matrix has up to the rounding of float32."""
    wide = dense.double()
    size = float(wide.norm())
    n_in, n_out = wide.shape
    if not size:
        return torch.zeros(n_in, 0), torch.zeros(0, n_out)
    tall = n_in > n_out
    gram = wide.T @ wide if tall else wide @ wide.T  # (n, n) of the shorter side
    values, vectors = torch.linalg.eigh(gram / size**2)  # ascending
    # What a rank leaves out, as a share of the squared norm.
    left_out = values.clamp(min=0).cumsum(0)
    rank = int((left_out > _ROUNDING**2 / 4).sum())
    basis = vectors[:, len(values) - rank :]  # (n, r)
    factors = (wide @ basis, basis.T) if tall else (basis, basis.T @ wide)
    left, right = (factor.float() for factor in factors)
    error = float((left.double() @ right.double() - wide).norm()) / size
    if rank * (n_in + n_out) >= n_in * n_out or error > _ROUNDING:
        raise _full_rank("the change has", rank, (n_in, n_out))
    return left, right


def _full_rank(what: str, rank: int, shape: tuple[int, int]) -> DeltaError:
    return DeltaError(
        f"{what} rank {rank} of at most {min(shape)}, so its factors would be as large as the "
        "weight itself.",
        hint=f"{_AS_FOLDER} Fine-tuning (ft) changes weights at full rank; rome, mend, memit and "
        "lora do not.",
    )


def _balanced(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """The same product with factors of similar size, so that a narrow type can hold both.

    Multiplying by powers of two is exact.
    """
    sizes = left.norm(dim=0), right.norm(dim=1)  # (r,) both
    ratio = (sizes[1] / sizes[0]).sqrt()
    usable = ratio.isfinite() & (ratio > 0)
    scale = torch.where(usable, 2.0 ** ratio.log2().nan_to_num().round().clamp(-60, 60), 1.0)
    return left * scale, right / scale[:, None]


# ---------------------------------------------------------------- vLLM


def vllm_warnings(
    model_type: str, rank: int, modules: Sequence[str] | Mapping[str, int]
) -> list[str]:
    """What vLLM cannot do with an adapter, or needs a flag for.

    Args:
        model_type: As in ``config.json``: ``llama``.
        rank: r of the adapter.
        modules: Names of the changed modules.
    """
    warnings = []
    if model_type in _WITHOUT_LORA:
        warnings.append(
            f"vLLM serves {model_type} models without LoRA: export a folder for it. PEFT loads "
            "this adapter."
        )
    enough = next((most for most in _RANKS if most >= rank), None)
    if enough is None:
        warnings.append(
            f"vLLM accepts ranks up to {_RANKS[-1]}, and this adapter has {rank}: export a folder."
        )
    elif rank > _DEFAULT_RANK:
        warnings.append(f"vLLM needs --max-lora-rank {enough} for this adapter; its default is 16.")
    if any(name.rpartition(".")[2] == "lm_head" for name in modules):
        warnings.append("Not every version of vLLM loads an adapter of lm_head.")
    return warnings
