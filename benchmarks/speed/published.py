"""editkit against ROME's published code (github.com/kmeng01/rome), in one process.

Both sides get the same model, contexts and noise, and their numbers are compared. The published
code runs from a checkout of its own; nothing of it is copied here. It was written for CUDA and
for transformers 4, so ``load_published`` gives its modules

    torch       that puts tensors on the model's device where the code names "cuda"
    a tokenizer that pads with the end-of-text token, and returns a list of encodings for a slice
    libraries   empty stand-ins for those that only other parts of the code need
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import importlib
import importlib.util
import io
import os
import sys
import types
import warnings
from collections import UserDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from editkit import (
    EditedModels,
    Fact,
    LanguageModel,
    Metric,
    Record,
    UsageError,
    WeightDelta,
    applied,
)
from editkit.benchmark.shared_queries import ask_together
from editkit.editing.outcomes import unwatched
from editkit.editing.rome_rows import sampled_or_given_contexts
from editkit_benchmarks.speed.shapes import atlas, first_records, gpt2_small
from editkit_benchmarks.speed.timing import Work, best_of, now, relative_difference
from editkit_plugins.counterfact.config import ChoiceConfig
from editkit_plugins.counterfact.metrics import Efficacy, Neighborhood, Paraphrase
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from editkit_plugins.tracing.causal_tracing import trace_fact
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draw_noise
from editkit_plugins.tracing.tokenized_facts import tokenize_facts

_MODULES = (
    *("rome.rome_main", "rome.compute_u", "rome.compute_v", "rome.rome_hparams", "util.nethook"),
    *("experiments.causal_trace", "experiments.py.eval_utils_counterfact"),
)
_OTHER_LIBRARIES = (
    *("datasets", "matplotlib", "matplotlib.pyplot", "matplotlib.style", "nltk", "scipy"),
    *("sklearn", "sklearn.feature_extraction", "sklearn.feature_extraction.text"),
    *("scipy.sparse", "tqdm", "tqdm.auto"),
)
_NOISE = 0.1
_KINDS: tuple[Kind, ...] = ("state", "mlp", "attn")
_WEIGHT_DECAY = 0.5
_METRICS = (Efficacy, Paraphrase, Neighborhood)
_PROBES = ("rewrite", "paraphrase", "neighborhood")
_BATCH = 20  # records, as in a benchmark


# ---------------------------------------------------------------- the published code


@dataclasses.dataclass(frozen=True)
class Published:
    """The published code's modules, by the last part of their names."""

    rome_main: Any
    rome_hparams: Any
    nethook: Any
    causal_trace: Any
    eval_utils_counterfact: Any


def load_published(checkout: Path) -> Published:
    """Import the published code from a checkout.

    Args:
        checkout: A clone of github.com/kmeng01/rome.

    Raises:
        UsageError: The folder is not such a clone.
    """
    if not (checkout / "rome" / "rome_main.py").is_file():
        raise UsageError(
            f"--rome: {str(checkout)!r} has no rome/rome_main.py, expected a clone of the "
            "published code.",
            hint="git clone https://github.com/kmeng01/rome, and give its path.",
        )
    before = Path.cwd()
    sys.path.insert(0, str(checkout.resolve()))
    os.chdir(checkout)  # util/globals.py reads a file of the current folder
    try:
        with _stand_ins(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of its escape sequences
            loaded = {name.rpartition(".")[2]: importlib.import_module(name) for name in _MODULES}
    finally:
        os.chdir(before)
        sys.path.remove(str(checkout.resolve()))
    for module in ("compute_v", "causal_trace"):
        loaded[module].__dict__["torch"] = _TorchOnCpu()
    make_inputs = loaded["causal_trace"].make_inputs
    loaded["causal_trace"].__dict__["make_inputs"] = functools.partial(make_inputs, device="cpu")
    fields = [field.name for field in dataclasses.fields(Published)]
    return Published(**{field: loaded[field] for field in fields})


@contextlib.contextmanager
def _stand_ins() -> Iterator[None]:
    """Empty modules in place of libraries that are not installed and that no case calls."""
    missing = []
    for name in _OTHER_LIBRARIES:
        if name.partition(".")[0] in missing or importlib.util.find_spec(name) is None:
            missing.append(name)
            stand_in: Any = types.ModuleType(name)
            stand_in.__path__ = []
            stand_in.__getattr__ = lambda attribute: object
            sys.modules[name] = stand_in
    try:
        yield
    finally:
        for name in missing:
            del sys.modules[name]


class _TorchOnCpu:
    """``torch``, with new tensors on the CPU where the caller names another device."""

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)

    def zeros(self, *size: Any, device: str = "cpu", **options: Any) -> torch.Tensor:
        """``torch.zeros`` on the CPU."""
        return torch.zeros(*size, **options)

    def tensor(self, data: Any, *, device: str = "cpu", **options: Any) -> torch.Tensor:
        """``torch.tensor`` on the CPU."""
        return torch.tensor(data, **options)


class _Encoded(UserDict[str, Any]):
    """Encodings that stay on the CPU; a slice is a list, as in transformers 4."""

    def __init__(self, data: Mapping[str, Any], encodings: Sequence[Any]) -> None:
        super().__init__(data)
        self._encodings = encodings

    def to(self, *_: Any, **__: Any) -> _Encoded:
        return self

    def __getitem__(self, item: Any) -> Any:
        return self._encodings[item] if isinstance(item, slice) else super().__getitem__(item)


class _Tokenizer:
    """A tokenizer as the published code expects it."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = copy.deepcopy(tokenizer)
        self._tokenizer.pad_token = self._tokenizer.eos_token

    def __call__(self, *arguments: Any, **options: Any) -> _Encoded:
        encoded = self._tokenizer(*arguments, **options)
        return _Encoded(encoded.data, encoded.encodings or [])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


# ---------------------------------------------------------------- both sides


def as_published(hf: Any) -> Any:
    """A copy of a model, which the published code edits in place."""
    plain = type(hf)(hf.config).eval()
    plain.load_state_dict(hf.state_dict())
    return plain


class Sides:
    """The published code and editkit on one model, with equal settings.

    Args:
        published: The published code.
        model: A GPT-2.
        layer: The block that ROME edits.
        steps: Evaluations of the value's loss.
        contexts: Contexts that ROME averages over, besides the empty one; each ends in a space.
    """

    def __init__(
        self,
        published: Published,
        model: LanguageModel,
        *,
        layer: int,
        steps: int = 20,
        contexts: Sequence[str],
    ) -> None:
        self.published, self.model = published, model
        self.tokenizer = _Tokenizer(model.tokenizer)
        self.theirs = as_published(model.hf)
        published.nethook.set_requires_grad(False, self.theirs)
        # The weight decay is large enough to keep the loss above 0.05, below which both stop.
        self.editor = RomeEditor(
            RomeConfig(
                layer=layer,
                steps=steps,
                contexts=tuple(contexts),
                weight_decay=_WEIGHT_DECAY,
                second_moment=False,
            )
        )
        self.hparams = published.rome_hparams.ROMEHyperParams(
            layers=[layer],
            fact_token="subject_last",
            v_num_grad_steps=steps,
            v_lr=self.editor.config.lr,
            v_loss_layer=model.n_layers - 1,
            v_weight_decay=_WEIGHT_DECAY,
            clamp_norm_factor=self.editor.config.clamp,
            kl_factor=self.editor.config.kl_factor,
            mom2_adjustment=False,
            context_template_length_params=[],
            rewrite_module_tmp="transformer.h.{}.mlp.c_proj",
            layer_module_tmp="transformer.h.{}",
            mlp_module_tmp="transformer.h.{}.mlp",
            attn_module_tmp="transformer.h.{}.attn",
            ln_f_module="transformer.ln_f",
            lm_head_module="transformer.wte",
            mom2_dataset="",
            mom2_n_samples=0,
            mom2_dtype="float32",
        )
        self._templates = ["{}", *(context + "{}" for context in contexts)]
        self.metrics: list[Metric[Any]] = [metric(ChoiceConfig()) for metric in _METRICS]

    # ------------------------------------------------------------ an edit

    def our_edits(self, records: Sequence[Record]) -> list[WeightDelta]:
        """Edits in one batch."""
        with unwatched():  # as in a benchmark
            return self.editor.edit(self.model, [record.request for record in records])

    def their_edit(self, record: Record) -> tuple[torch.Tensor, torch.Tensor]:
        """u and the right vector of one edit; the model is unchanged afterwards."""
        with self._quiet():
            deltas = self.published.rome_main.execute_rome(
                self.theirs, self.tokenizer, _request(record), self.hparams
            )
        [(u, right)] = deltas.values()
        return u, right

    @contextlib.contextmanager
    def _quiet(self) -> Iterator[None]:
        """Contexts as given, and nothing on standard output."""
        self.published.rome_main.CONTEXT_TEMPLATES_CACHE = self._templates
        with contextlib.redirect_stdout(io.StringIO()):
            yield

    # ------------------------------------------------------------ scores

    def our_scores(
        self, deltas: Sequence[WeightDelta], records: Sequence[Record]
    ) -> list[list[float]]:
        """The two NLLs at every prompt of each record, through the three metrics."""
        models = EditedModels(self.model, deltas, weights_known=True)  # as in a benchmark
        ask_together(models, records, self.metrics)
        numbers: list[list[float]] = [[] for _ in records]
        for metric in self.metrics:
            for row, choices in zip(numbers, metric.score(models, records), strict=True):
                by_target = [
                    value
                    for target in ("new", "true")
                    for key, value in choices.items()
                    if key.endswith(f"/nll_{target}") and isinstance(value, list)
                ]
                row += [float(nll) for pair in zip(*by_target, strict=True) for nll in pair]
        return numbers

    def their_scores(self, record: Record, edited: Any) -> list[float]:
        """The same numbers, of a transformers model that is edited already."""
        answers = self.published.eval_utils_counterfact.test_batch_prediction(
            edited,
            self.tokenizer,
            [probe.prompt for kind in _PROBES for probe in record.probes[kind]],
            record.request.target_new,
            record.request.target_true,
        )
        return [answer[key] for answer in answers for key in ("target_new", "target_true")]

    def their_record(self, record: Record) -> list[float]:
        """Edit the model, score it, and restore it."""
        with self._quiet():
            _, before = self.published.rome_main.apply_rome_to_model(
                self.theirs,
                self.tokenizer,
                [_request(record)],
                self.hparams,
                return_orig_weights=True,
            )
        scores = self.their_scores(record, self.theirs)
        with torch.no_grad():
            for name, weight in before.items():
                self.published.nethook.get_parameter(self.theirs, name)[...] = weight
        return scores

    # ------------------------------------------------------------ a trace

    def our_trace(self, record: Record) -> list[float]:
        """Probability of the predicted token in every restored run: (kinds, tokens, layers)."""
        config = CausalTracingConfig(kinds=_KINDS, window=10, noise_level=_NOISE)
        [fact] = tokenize_facts(
            self.model, [Fact(record.request.sentence, record.request.subject, None)]
        )
        noise = draw_noise(self.model, fact, config, _NOISE)
        restored = trace_fact(self.model, fact, noise, config, _KINDS).restored
        return [p for kind in _KINDS for p in restored[kind].flatten().tolist()]

    def their_trace(self, record: Record) -> list[float]:
        """The same numbers."""
        code = self.published.causal_trace
        mt = code.ModelAndTokenizer(model=self.theirs, tokenizer=self.tokenizer)
        numbers: list[float] = []
        for kind in (None, "mlp", "attn"):
            traced = code.calculate_hidden_flow(
                mt, record.request.sentence, record.request.subject, noise=_NOISE, kind=kind
            )
            numbers += traced["scores"].flatten().tolist()
        return numbers


def _request(record: Record) -> dict[str, Any]:
    request = record.request
    return {
        "prompt": request.prompt,
        "subject": request.subject,
        "target_new": {"str": request.target_new},
        "target_true": {"str": request.target_true},
    }


# ---------------------------------------------------------------- the cases


def _rome(sides: Sides, n: int) -> tuple[Work, Work]:
    records = first_records(n)

    def ours() -> list[float]:
        return [x for r in records for x in _numbers(*_factors(sides.our_edits([r])[0]))]

    def theirs() -> list[float]:
        return [x for record in records for x in _numbers(*sides.their_edit(record))]

    return ours, theirs


def _factors(delta: WeightDelta) -> tuple[torch.Tensor, torch.Tensor]:
    [change] = delta.changes.values()
    tensors = change.tensors()
    return tensors["left"][:, 0], tensors["right"][0]


def _numbers(u: torch.Tensor, right: torch.Tensor) -> list[float]:
    """An update's right vector for a u of unit length."""
    return [float(x) for x in right * u.norm()]


def _scoring(sides: Sides, n: int) -> tuple[Work, Work]:
    records = first_records(n)
    deltas = sides.our_edits(records)
    edited = []
    for delta in deltas:
        with applied(sides.model, delta):
            edited.append(as_published(sides.model.hf))

    def ours() -> list[float]:
        numbers = []
        for delta, record in zip(deltas, records, strict=True):
            numbers += sides.our_scores([delta], [record])[0]
        return numbers

    def theirs() -> list[float]:
        pairs = zip(records, edited, strict=True)
        return [x for record, hf in pairs for x in sides.their_scores(record, hf)]

    return ours, theirs


def _trace(sides: Sides, n: int) -> tuple[Work, Work]:
    records = first_records(n)
    return (
        (lambda: [x for record in records for x in sides.our_trace(record)]),
        (lambda: [x for record in records for x in sides.their_trace(record)]),
    )


def _record(sides: Sides, n: int) -> tuple[Work, Work]:
    """Ours in a whole batch, of which the first n records are compared."""
    records = first_records(_BATCH)

    def ours() -> list[float]:
        rows = sides.our_scores(sides.our_edits(records), records)
        return [x for row in rows[:n] for x in row]

    return ours, (lambda: [x for record in records[:n] for x in sides.their_record(record)])


Make = Callable[[Sides, int], tuple[Work, Work]]
"""Builds our way and theirs, for a number of records."""


@dataclasses.dataclass(frozen=True)
class Question:
    """One comparison at several shapes.

    Attributes:
        title: What is done.
        make: Builds both ways.
        records: Records of one timed run, by shape.
        goals: Ratio to reach, by shape.
        batch: Records of one timed run of editkit, if they are more.
    """

    title: str
    make: Make
    records: Mapping[str, int]
    goals: Mapping[str, float]
    batch: int = 0


QUESTIONS: Mapping[str, Question] = {
    "edit": Question(
        "a ROME edit of 20 steps, one request at a time",
        _rome,
        {"atlas": 2, "gpt2-small": 1},
        {"gpt2-small": 10},
    ),
    "score": Question(
        "the teacher-forced scores of one edited record",
        _scoring,
        {"atlas": 8, "gpt2-small": 2},
        {"atlas": 2, "gpt2-small": 4},
    ),
    "trace": Question(
        "a full causal trace of one fact (three kinds, 10 samples)",
        _trace,
        {"atlas": 1, "gpt2-small": 1},
        {"gpt2-small": 10},
    ),
    "record": Question(
        f"a CounterFact record, edit and scores; editkit in a batch of {_BATCH}",
        _record,
        {"atlas": 4, "gpt2-small": 1},
        {"gpt2-small": 12},
        batch=_BATCH,
    ),
}
_LAYERS = {"atlas": 1, "gpt2-small": 4}
_MODELS = {"atlas": atlas, "gpt2-small": gpt2_small}
CASES = tuple(f"{name}-{shape}" for name in QUESTIONS for shape in _MODELS)
"""Names on the command line."""


def measure(published: Published, case: str, *, repeats: int, steps: int = 20) -> dict[str, Any]:
    """Compare both sides on one case, in CPU seconds per record.

    Args:
        published: The published code.
        case: One of ``CASES``.
        repeats: Most repeats of each side; the best one counts.
        steps: Steps of ROME's optimisation.
    """
    name, _, shape = case.partition("-")
    question = QUESTIONS[name]
    # Atlas writes the contexts of both models.
    contexts = sampled_or_given_contexts(atlas(), RomeConfig())[1:]
    sides = Sides(published, _MODELS[shape](), layer=_LAYERS[shape], steps=steps, contexts=contexts)
    n = question.records[shape]
    ours, theirs = question.make(sides, n)
    numbers: dict[str, Sequence[float]] = {}

    def keeping(side: str, work: Work) -> Work:
        def run() -> Sequence[float]:
            numbers[side] = work()
            return numbers[side]

        return run

    ways = {"editkit": keeping("editkit", ours), "published": keeping("published", theirs)}
    seconds = best_of(ways, repeats=repeats, clock=now("cpu"))
    ours_s = seconds["editkit"] / (question.batch or n)
    theirs_s = seconds["published"] / n
    return {
        "case": case,
        "title": f"{shape}: {question.title}",
        "editkit_ms": 1000 * ours_s,
        "published_ms": 1000 * theirs_s,
        "ratio": theirs_s / ours_s,
        "goal": question.goals.get(shape),
        "largest_relative_difference": relative_difference(
            numbers["editkit"], numbers["published"]
        ),
    }
