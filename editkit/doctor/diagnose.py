"""The checks of ``editkit doctor``: what a run needs, before any weights are loaded."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import platform
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from editkit import __version__
from editkit.covariance.corpora import Corpus
from editkit.data_types import RequiredStatistic, Requirements
from editkit.doctor.forecast import MemoryForecast, forecast
from editkit.errors import ConfigError, EditkitError, ModelError, first_line
from editkit.interfaces import Config, Editor
from editkit.models.checkpoint import config_problems, headers_of, listed_problems
from editkit.models.dequantised import is_dequantised, placement_problems
from editkit.models.dtype_speed import slow_dtype
from editkit.models.gguf import gguf_header, is_gguf
from editkit.models.hub import cached_snapshot, hub_files, refuse_path
from editkit.models.loading import (
    check_device,
    check_dtype,
    incomplete,
    read_tokenizer,
    report_of_headers,
    wrong_types,
)
from editkit.models.model_files import config_folder, fingerprint_of_files, problems_of_files
from editkit.models.shape import ModelShape, shape_of
from editkit.models.text_part import text_config
from editkit.regimes import INDEPENDENT, Regime
from editkit.registry.hparams import NO_MATCH, Match
from editkit.registry.models import config_of, known_models, local_folder
from editkit.registry.plugins import Offer, Registry
from editkit.registry.specs import EditorSpec
from editkit.reprs import counted
from editkit.storage.cache import cache_folder
from editkit.storage.machine import available_memory, memory_of_this_process

if TYPE_CHECKING:
    from transformers import PretrainedConfig

__all__ = ["RESULTS_MB", "Check", "Diagnosis", "PlannedEditor", "diagnose"]

Verdict = Literal["ok", "warning", "problem"]
MB = 2**20
_NO_CONFIG = ("config", "model")
RESULTS_MB = 50
"""Free space that the check of the disk asks for, for the results and MLflow files of a run."""


@dataclasses.dataclass(frozen=True)
class Check:
    """The result of one check.

    Attributes:
        topic: What was checked: ``architecture``, ``memory of rome``.
        verdict: ``problem`` if it would stop the run.
        text: The result in words.
    """

    topic: str
    verdict: Verdict
    text: str


@dataclasses.dataclass(frozen=True)
class Diagnosis:
    """All checks.

    Attributes:
        checks: The checks in the order of display.
        memory: Forecasts by editor, for editors that state their requirements.
        left_out: Names of optional editors that cannot edit the model.
        to_compute: Names of editors with a statistic that is not in the cache.
    """

    checks: tuple[Check, ...]
    memory: dict[str, MemoryForecast]
    left_out: frozenset[str] = frozenset()
    to_compute: frozenset[str] = frozenset()

    @property
    def sound(self) -> bool:
        """Whether nothing would stop the run."""
        return all(check.verdict != "problem" for check in self.checks)


@dataclasses.dataclass(frozen=True)
class PlannedEditor:
    """An editor with the configuration of the run.

    ``guessed`` has the values that nobody chose for the model. An ``optional`` editor is left out
    of the run if it cannot edit the model.
    """

    offer: Offer
    config: Config
    rule: str | None = None
    matched: Match = NO_MATCH
    overridden: tuple[str, ...] = ()
    guessed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    optional: bool = False
    regimes: tuple[Regime, ...] = (INDEPENDENT,)


def diagnose(
    registry: Registry,
    model: str,
    editors: Sequence[PlannedEditor],
    *,
    dtype: str = "float32",
    device: str = "cpu",
    requests: int = 20,
    edits: int = 1,
    tokens: int = 20,
) -> Diagnosis:
    """Check everything that a run needs; no weights are loaded.

    Args:
        registry: Builds the editors.
        model: A registered name, a folder, or a hub id; forecasts need only its ``config.json``.
        editors: The editors.
        dtype: Type of the weights.
        device: Device of the model.
        requests: Requests that are scored together, and edited together in the regime
            ``independent``.
        edits: Most requests of a record, which are edited together in every regime.
        tokens: Tokens of the longest prompt with its target.
    """
    checks = [_versions(editors), _device(device)]
    try:
        check_dtype(dtype)
    except ModelError as error:
        checks.append(Check("dtype", "problem", str(error)))
        dtype = "float32"  # for the forecasts
    if slow := slow_dtype(dtype, device):
        checks.append(Check("dtype", "warning", slow))
    files, folder, config = _files_and_config(registry, model)
    checks += files
    if config is None:
        return Diagnosis(tuple(checks), {})
    refused = any(check.topic == "config" and check.verdict == "problem" for check in files)
    try:
        shape = shape_of(config if refused else text_config(config), dtype=dtype)
    except ModelError as error:
        checks.append(Check("architecture", "problem", str(error)))
        return Diagnosis(tuple(checks), {})
    base = memory_of_this_process()
    checks += [_architecture(shape), *_weights(shape, folder, config, model, files)]
    if not any(check.topic == "tokenizer" for check in files):
        checks.append(_tokenizer(folder, model, shape.vocabulary))
    if any(check.topic == "device" and check.verdict == "problem" for check in checks):
        device = "cpu"  # for the forecasts
    memory: dict[str, MemoryForecast] = {}
    left_out = set()
    to_compute = set()
    to_write = 0
    unusable = any(check.verdict == "problem" for check in checks) or not _files(folder)
    for planned in editors:
        name = planned.offer.name
        if planned.matched.report:
            used: Verdict = "warning" if planned.matched.refused else "ok"
            checks.append(Check(f"values of {name}", used, planned.matched.report))
        if planned.overridden:
            text = f"the named preset wins: {'; '.join(planned.overridden)}"
            checks.append(Check(f"preset of {name}", "ok", text))
        if planned.rule:
            checks.append(Check(name, "warning", planned.rule))
        try:
            if folder is not None and not unusable:
                planned.config.check_for(model, fingerprint_of_files(folder), name)
        except EditkitError as error:
            verdict: Verdict = "warning" if planned.optional else "problem"
            checks.append(Check(name, verdict, f"{'left out: ' * planned.optional}{error}"))
            if planned.optional:
                left_out.add(name)
            continue
        try:
            editor = registry.build("editor", name, planned.config)
            required = _required(editor, planned, shape, (requests, edits), tokens)
        except EditkitError as error:
            checks.append(Check(name, "problem", str(error)))
            continue
        if required is None:
            text = "its memory and statistics are unknown: the editor states no requirements"
            checks.append(Check(name, "warning", text))
            continue
        checks += [Check(name, "ok", note.rstrip(".")) for note in required.notes]
        for statistic in required.statistics:
            check, available = _statistic(planned, statistic, folder, dtype)
            checks.append(check)
            if not available:
                to_compute.add(name)
                to_write += 4 * statistic.width**2
        memory[name] = forecast(shape, required, requests=requests, tokens=tokens, base=base)
        checks.append(_memory(name, memory[name], device))
    unpacked = 4 * shape.n_parameters if folder is not None and is_gguf(folder) else 0
    if folder is not None and unpacked and is_dequantised(folder):
        unpacked = 0
    checks.append(_disk(shape, folder, to_write, unpacked))
    return Diagnosis(tuple(checks), memory, frozenset(left_out), frozenset(to_compute))


def _required(
    editor: Editor[Any],
    planned: PlannedEditor,
    shape: ModelShape,
    counts: tuple[int, int],
    tokens: int,
) -> Requirements | None:
    """The requirements of the regime that needs most memory; None if the editor states none.

    ``counts``: records that are edited as a batch, and most edits of a record.
    """
    spec, (batch, edits) = planned.offer.spec, counts
    stated = []
    for regime in planned.regimes:
        # A record with several edits is a joint edit, also in a model of its own.
        own = Regime.joint(edits) if regime.is_independent and edits > 1 else regime
        if own.is_independent:
            required = editor.requirements(shape, requests=batch, tokens=tokens)
        elif isinstance(spec, EditorSpec) and spec.writes_together(own):
            together = own.together * (1 if regime.is_independent else edits)
            required = editor.joint_requirements(shape, requests=together, tokens=tokens)
        else:
            required = editor.requirements(shape, requests=1, tokens=tokens)
        stated += [] if required is None else [required]
    return max(stated, key=lambda each: each.memory, default=None)


def size(n: int) -> str:
    """A number of bytes as text: ``180 KiB``, ``12 MiB``, ``3.4 GiB``."""
    if 0 < n < MB:
        return f"{n / 2**10:.0f} KiB"
    return f"{n / 2**30:.1f} GiB" if n >= 2**30 else f"{n / MB:.0f} MiB"


def _files_and_config(
    registry: Registry, model: str
) -> tuple[list[Check], Path | None, PretrainedConfig | None]:
    """Problems with the model's files, its local folder, and its config.

    The config is None if it cannot be read or its model cannot be edited. Weights are never
    downloaded.
    """
    from transformers import AutoConfig

    try:
        folder = local_folder(model)
        if folder is None:
            refuse_path(model, known_models())
            folder = cached_snapshot(model)
    except ModelError as error:
        return [Check("model", "problem", str(error))], None, None
    if folder is not None:
        problems = problems_of_files(folder, model)
    else:
        content, names = config_of(model, download=True), hub_files(model)
        problems = config_problems(content, model) if content is not None else []
        problems += listed_problems(names, model) if names is not None else []
    checks = [Check(problem.topic, problem.verdict, str(problem)) for problem in problems]
    if any(check.verdict == "problem" and check.topic in _NO_CONFIG for check in checks):
        return checks, folder, None
    try:
        described = model if folder is None else config_folder(folder, model)
        config = AutoConfig.from_pretrained(described, trust_remote_code=False)
    except Exception as error:  # the parsers of transformers raise anything
        text = f"the config of {model!r} could not be read: {first_line(error)}"
        hint = "Give a registered model, a folder with a config.json, or a hub id."
        return [*checks, Check("config", "problem", f"{text} {hint}")], folder, None
    return checks, folder, config


def _versions(editors: Sequence[PlannedEditor]) -> Check:
    names = ("torch", "transformers", "tokenizers", "safetensors")
    libraries = [f"{name} {importlib.metadata.version(name)}" for name in names]
    sources = dict.fromkeys(str(planned.offer.source) for planned in editors)
    parts = [f"editkit {__version__}", f"python {platform.python_version()}", *libraries, *sources]
    return Check("versions", "ok", ", ".join(dict.fromkeys(parts)))


def _architecture(shape: ModelShape) -> Check:
    return Check(
        "architecture",
        "ok",
        f"{shape.model_type} is known: {shape.n_layers} layers (0 to {shape.n_layers - 1}), hidden "
        f"{shape.hidden_size}, inner {shape.inner_size}, {shape.n_parameters:,} weights",
    )


def _files(folder: Path | None) -> list[Path]:
    if folder is not None and is_gguf(folder):
        return [folder]
    return sorted(folder.glob("*.safetensors")) if folder else []


def _weights(
    shape: ModelShape,
    folder: Path | None,
    config: PretrainedConfig,
    model: str,
    file_checks: Sequence[Check],
) -> list[Check]:
    """The memory of the weights, and whether the checkpoint has exactly the model's weights."""
    topic, need = "memory of weights", f"{size(shape.weight_bytes)} of memory as {shape.dtype}"
    if folder is None:
        return [Check(topic, "warning", f"{need}; {model} would be downloaded")]
    if any(check.topic == "weights" and check.verdict == "problem" for check in file_checks):
        return [Check(topic, "ok", need)]
    files = _files(folder)
    on_disk = size(sum(file.stat().st_size for file in files))
    checks = [Check(topic, "ok", f"{need}; {on_disk} on disk in {counted(len(files), 'file')}")]
    if is_gguf(folder):
        lost = placement_problems(gguf_header(folder), config, model)
        return [*checks, *(Check("weights", each.verdict, str(each)) for each in lost)]
    try:
        empty, report = report_of_headers(folder, config)
    except Exception as error:  # the library raises whatever it meets
        text = f"the checkpoint of {model!r} does not match its config: {first_line(error)}"
        return [*checks, Check("weights", "problem", text)]
    problems = [
        *incomplete(empty, report, model, only_text=text_config(config) is not config),
        *wrong_types(empty, headers_of(folder), model),
    ]
    return [*checks, *(Check("weights", each.verdict, str(each)) for each in problems)]


def _tokenizer(folder: Path | None, model: str, rows: int) -> Check:
    from transformers import AutoTokenizer

    if folder is not None:
        try:
            tokenizer: Any = read_tokenizer(config_folder(folder, model), model)
        except ModelError as error:
            return Check("tokenizer", "problem", str(error))
    else:
        try:
            tokenizer = AutoTokenizer.from_pretrained(model, trust_remote_code=False)
        except Exception as error:  # transformers raises whatever its parsers raise
            return Check(
                "tokenizer",
                "warning",
                f"none could be read here ({type(error).__name__}): a run needs a tokenizer.json",
            )
    side = (
        f"pads on the {tokenizer.padding_side}, which does not matter: editkit always pads on the "
        "right itself"
    )
    if not tokenizer.is_fast:
        return Check("tokenizer", "problem", "it is slow: it gives no character offsets")
    from editkit.models.encoding import check_vocabulary

    try:
        check_vocabulary(tokenizer, rows, name=model)
    except ModelError as error:
        return Check("tokenizer", "problem", str(error))
    return Check("tokenizer", "ok", side)


def _device(device: str) -> Check:
    try:
        check_device(device)
    except ModelError as error:
        return Check("device", "problem", str(error))
    return Check("device", "ok", device)


def _statistic(
    planned: PlannedEditor, statistic: RequiredStatistic, folder: Path | None, dtype: str
) -> tuple[Check, bool]:
    """Whether a statistic can be read or computed, and whether it is available already."""
    name = planned.offer.name
    topic = f"statistic of {name}"
    what = f"{statistic.width} x {statistic.width} for {statistic.path}"
    if statistic.file is not None:
        exists = Path(statistic.file).expanduser().is_file()
        state = "exists" if exists else "does not exist"
        verdict: Verdict = "ok" if exists else "problem"
        return Check(topic, verdict, f"{what}: {statistic.file} {state}"), True
    if statistic.corpus is None:
        hint = f"set editors.{name}.corpus"
        if "second_moment" in type(planned.config).model_fields:
            hint += f", or editors.{name}.second_moment=false to edit without the statistic"
        return Check(topic, "problem", f"{what}: it has no corpus ({hint})"), False
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
            f"{source}: unknown whether it is cached, because the weights are not downloaded",
        ), False
    from editkit.covariance.accumulate import ROW_TOKENS  # loads torch
    from editkit.covariance.second_moment import cached_second_moment

    row_tokens = statistic.row_tokens or ROW_TOKENS
    fingerprint = fingerprint_of_files(folder)
    if cached_second_moment(
        fingerprint, statistic.path, corpus, statistic.tokens, dtype, row_tokens
    ):
        return Check(topic, "ok", f"{source}: cached"), True
    return Check(topic, "warning", f"{source}: must be computed"), False


def _memory(name: str, memory: MemoryForecast, device: str) -> Check:
    parts = {
        "process": memory.base,
        "weights": memory.weights,
        "statistics": memory.statistics,
        "activations": memory.activations,
    }
    needed = memory.peak if device == "cpu" else memory.beyond
    free = available_memory(device)
    more = memory.beyond  # this process already has its base
    verdict: Verdict = "ok"
    if free is not None and more > free:
        verdict = "problem"
    elif free is not None and more > 0.8 * free:
        verdict = "warning"
    listed = ", ".join(f"{part} {size(value)}" for part, value in parts.items() if value)
    left = "unknown" if free is None else size(free)
    return Check(f"memory of {name}", verdict, f"about {size(needed)} ({listed}); free: {left}")


def _disk(shape: ModelShape, folder: Path | None, statistics: int, unpacked: int) -> Check:
    """Free space for what a run writes.

    Args:
        shape: The model's shape.
        folder: Its files; None if they would be downloaded.
        statistics: Bytes of the statistics that must be computed.
        unpacked: Bytes of the weights that a GGUF file is dequantised to.
    """
    place = cache_folder()
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    download = 0 if folder else shape.weight_bytes
    need = statistics + download + unpacked + RESULTS_MB * MB
    verdict: Verdict = "problem" if need > free else "ok"
    parts = f"statistics {size(statistics)}, {RESULTS_MB} MiB kept free for results"
    if unpacked:
        parts += f", dequantised weights {size(unpacked)}"
    if download:
        parts += f", download about {size(download)}"
    return Check("disk", verdict, f"{parts}; free at {place}: {size(free)}")
