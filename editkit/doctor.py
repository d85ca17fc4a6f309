"""What a run would need, checked before any weights are loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from editkit import __version__
from editkit.cache import cache_folder
from editkit.corpora import Corpus
from editkit.errors import ConfigError, EditkitError, ModelError
from editkit.estimates import Estimate, estimate
from editkit.interfaces import Config
from editkit.memory import available_memory, memory_of_this_process
from editkit.model_values import NO_MATCH, Match
from editkit.models.finding import digest_of_files, model_folder
from editkit.models.shape import ModelShape, shape_of
from editkit.needs import Needs, StatisticNeeds
from editkit.plugins import Offer, Registry

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["Check", "Diagnosis", "PlannedEditor", "diagnose"]

Verdict = Literal["ok", "warning", "problem"]
MB = 2**20
_TOKENIZERS = ("tokenizer.json", "vocab.json", "tokenizer.model")
_DELTA_DISK_MB = 50  # results of a run: a store, a table, tracking


@dataclasses.dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        topic: What: ``architecture``, ``memory of rome``.
        verdict: ``problem`` if it would stop the run.
        text: What was found, in plain words.
    """

    topic: str
    verdict: Verdict
    text: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """Everything that was found.

    Attributes:
        checks: In the order in which they are shown.
        memory: Estimates by editor, where the editor says what it needs.
        needs: What the editors say.
        shape: The model's shape; None where its config could not be read.
    """

    checks: tuple[Check, ...]
    memory: dict[str, Estimate]
    needs: dict[str, Needs]
    shape: ModelShape | None

    @property
    def sound(self) -> bool:
        """Whether nothing would stop the run."""
        return all(check.verdict != "problem" for check in self.checks)


@dataclasses.dataclass(frozen=True)
class PlannedEditor:
    """An editor with the configuration that it would run with."""

    offer: Offer
    config: Config
    rule: str | None = None
    matched: Match = NO_MATCH


def diagnose(
    registry: Registry,
    model: str,
    editors: Sequence[PlannedEditor],
    *,
    dtype: str = "float32",
    device: str = "cpu",
    requests: int = 20,
    tokens: int = 20,
) -> Diagnosis:
    """Look at everything that a run would need; no weights are loaded.

    Args:
        registry: Where editors are built.
        model: A registered name, a folder, or a hub id; a folder needs only its ``config.json``.
        editors: The editors.
        dtype: Type of the weights.
        device: Where the model would go.
        requests: Requests that are edited together.
        tokens: Tokens of the longest prompt and target.
    """
    checks = [_versions(editors)]
    try:
        folder, config = _config_of(registry, model)
        shape = shape_of(config, dtype=dtype)
    except ModelError as error:
        return Diagnosis((*checks, Check("architecture", "problem", str(error))), {}, {}, None)
    base = memory_of_this_process()
    checks += [
        _architecture(shape),
        _weights(shape, folder, model),
        _tokenizer(folder, model, shape.vocabulary),
    ]
    checks.append(_device(device))
    memory: dict[str, Estimate] = {}
    said: dict[str, Needs] = {}
    to_write = 0
    for planned in editors:
        name = planned.offer.name
        if planned.matched.report:
            used: Verdict = "warning" if planned.matched.refused else "ok"
            checks.append(Check(f"values of {name}", used, planned.matched.report))
        if planned.rule:
            checks.append(Check(name, "warning", planned.rule))
        try:
            editor = registry.build("editor", name, planned.config)
            needs = editor.needs(shape, requests=requests, tokens=tokens)
        except EditkitError as error:
            checks.append(Check(name, "problem", str(error)))
            continue
        if needs is None:
            checks.append(Check(name, "warning", "the editor does not say what it needs"))
            continue
        checks += [Check(name, "ok", note.rstrip(".")) for note in needs.notes]
        missing: list[StatisticNeeds] = []
        for statistic in needs.statistics:
            check, cached = _statistic(name, statistic, folder, dtype)
            checks.append(check)
            if not cached:
                missing.append(statistic)
                to_write += 4 * statistic.width**2
        said[name] = needs
        memory[name] = estimate(
            shape, needs, requests=requests, tokens=tokens, missing=missing, base=base
        )
        checks.append(_memory(name, memory[name], device))
    checks.append(_disk(shape, folder, to_write))
    return Diagnosis(tuple(checks), memory, said, shape)


def size(n: int) -> str:
    """A number of bytes as people say it."""
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / MB:.0f} MiB"


def _config_of(registry: Registry, model: str) -> tuple[Path | None, PretrainedConfig]:
    """The folder, if the model is on this disk, and the config; weights are never downloaded."""
    from transformers import AutoConfig

    local = Path(model).is_dir() or model in registry.names("model")
    folder = model_folder(model) if local else None
    try:
        config = AutoConfig.from_pretrained(folder or model, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise ModelError(
            f"the config of {model!r} could not be read: {first}",
            hint="Give a registered model, a folder with a config.json, or a hub id.",
        ) from error
    return folder, config


def _versions(editors: Sequence[PlannedEditor]) -> Check:
    names = ("torch", "transformers", "tokenizers", "safetensors")
    found = [f"{name} {importlib.metadata.version(name)}" for name in names]
    sources = dict.fromkeys(str(planned.offer.source) for planned in editors)
    parts = [f"editkit {__version__}", f"python {platform.python_version()}", *found, *sources]
    return Check("versions", "ok", ", ".join(dict.fromkeys(parts)))


def _architecture(shape: ModelShape) -> Check:
    return Check(
        "architecture",
        "ok",
        f"{shape.model_type} is known: {shape.n_layers} layers (0 to {shape.n_layers - 1}), hidden "
        f"{shape.hidden_size}, inner {shape.inner_size}, {shape.n_parameters:,} weights",
    )


def _files(folder: Path | None) -> list[Path]:
    return sorted(folder.glob("*.safetensors")) if folder else []


def _weights(shape: ModelShape, folder: Path | None, model: str) -> Check:
    need = f"{size(shape.weight_bytes)} of memory as {shape.dtype}"
    files = _files(folder)
    if files:
        here = size(sum(file.stat().st_size for file in files))
        return Check("weights", "ok", f"{need}; {here} on disk in {len(files)} file(s)")
    if folder:
        return Check(
            "weights", "warning", f"{need}; {folder} holds no *.safetensors file: not yet runnable"
        )
    return Check("weights", "warning", f"{need}; {model} would be downloaded, or is in hub's cache")


def _tokenizer(folder: Path | None, model: str, rows: int) -> Check:
    from transformers import AutoTokenizer

    if folder and not any((folder / file).is_file() for file in _TOKENIZERS):
        return Check(
            "tokenizer", "warning", f"{folder} holds none: a run needs a tokenizer.json beside it"
        )
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder or model, trust_remote_code=False)
    except Exception as error:  # transformers raises whatever its parsers raise
        return Check(
            "tokenizer",
            "warning",
            f"none could be read here ({type(error).__name__}): a run needs a tokenizer.json",
        )
    side = (
        f"pads on the {tokenizer.padding_side}, which does not matter: editkit pads by itself, "
        "always on the right"
    )
    if not tokenizer.is_fast:
        return Check("tokenizer", "problem", f"it is a slow one, without offsets; it {side}")
    from editkit.models.tokenizing import check_vocabulary

    try:
        check_vocabulary(tokenizer, rows, name=model)
    except ModelError as error:
        return Check("tokenizer", "problem", str(error))
    return Check("tokenizer", "ok", side)


def _device(device: str) -> Check:
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        return Check("device", "problem", f"{device} was asked for, but torch sees no GPU")
    return Check("device", "ok", device)


def _statistic(
    name: str, statistic: StatisticNeeds, folder: Path | None, dtype: str
) -> tuple[Check, bool]:
    """Whether a statistic is there already."""
    topic = f"statistic of {name}"
    what = f"{statistic.width} x {statistic.width} for {statistic.path}"
    if statistic.file is not None:
        there = Path(statistic.file).expanduser().is_file()
        found = "is there" if there else "is not there"
        verdict: Verdict = "ok" if there else "problem"
        return Check(topic, verdict, f"{what}: {statistic.file} {found}"), True
    if statistic.corpus is None:
        return Check(
            topic, "problem", f"{what}: no corpus is named (set editors.{name}.corpus)"
        ), False
    tokens = f"{statistic.tokens:,} tokens" if statistic.tokens else "all tokens"
    source = f"{what}, {tokens} of {statistic.corpus}"
    try:
        corpus = Corpus(statistic.corpus, statistic.order, statistic.seed)
        corpus.digest()
    except ConfigError as error:
        return Check(topic, "problem", f"{source}: {error}"), False
    if folder is None or not _files(folder):
        return Check(
            topic,
            "warning",
            f"{source}: whether it is cached is unknown until the weights are here",
        ), False
    from editkit.accumulation import ROW_TOKENS  # loads torch
    from editkit.statistics import cached_second_moment

    row_tokens = statistic.row_tokens or ROW_TOKENS
    fingerprint = digest_of_files(folder)
    if cached_second_moment(
        fingerprint, statistic.path, corpus, statistic.tokens, dtype, row_tokens
    ):
        return Check(topic, "ok", f"{source}: cached"), True
    return Check(topic, "warning", f"{source}: must be computed"), False


def _memory(name: str, memory: Estimate, device: str) -> Check:
    parts = {
        "process": memory.base,
        "weights": memory.weights,
        "computing statistics": memory.statistics,
        "preparing": memory.prepare,
        "editing": memory.edit,
        "scoring": memory.score,
    }
    needed = memory.peak if device == "cpu" else memory.beyond
    free = available_memory(device)
    more = memory.beyond  # this process holds its base already
    verdict: Verdict = "ok"
    if free is not None and more > free:
        verdict = "problem"
    elif free is not None and more > 0.8 * free:
        verdict = "warning"
    listed = ", ".join(f"{part} {size(value)}" for part, value in parts.items() if value)
    left = "unknown" if free is None else size(free)
    return Check(
        f"memory of {name}", verdict, f"about {size(needed)} at most ({listed}); free: {left}"
    )


def _disk(shape: ModelShape, folder: Path | None, statistics: int) -> Check:
    place = cache_folder()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    download = 0 if folder else shape.weight_bytes
    need = statistics + download + _DELTA_DISK_MB * MB
    verdict: Verdict = "problem" if need > free else "ok"
    told = f"statistics {size(statistics)}, results {_DELTA_DISK_MB} MiB"
    if download:
        told += f", download about {size(download)}"
    return Check("disk", verdict, f"{told}; free at {place}: {size(free)}")
