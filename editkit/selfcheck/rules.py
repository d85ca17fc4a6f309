"""The rules that a model must keep so that editors and traces are correct on it.

The oracle of each rule is the library's own forward pass, one row at a time, without padding and
without a cache; weights are edited in place and restored. What is compared with it are the fast
paths that editors, metrics and traces use.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from editkit.editing.deltas import Dense, WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.errors import ModelError
from editkit.models.architectures import PARTS
from editkit.models.block_calls import first
from editkit.models.blocks import RecordedPass
from editkit.models.encoding import padded
from editkit.models.language_model import LanguageModel
from editkit.models.running import Reads, Tail, forward, forward_after, replacing, run_prefix
from editkit.models.shape import window_of
from editkit.models.trees import forward_trees, longest_tree, trees_of
from editkit.models.weight_layout import as_stored, input_major, is_matrix_module

__all__ = [
    "GRADIENT_TOLERANCE",
    "RULES",
    "TOLERANCE",
    "Broken",
    "NotApplicable",
    "Rule",
]

TOLERANCE = 1e-4
"""Largest error, relative to the largest value of what is compared."""
GRADIENT_TOLERANCE = 1e-3
_LENGTHS = (12, 5, 9)
_LONG = (24, 11, 17)
_BLOCK = "a block must return its hidden states (B, S, H), alone or first in a tuple"
_MODULE = "a module must return a tensor, alone or first in a tuple"
_SHAPES = (_MODULE, _BLOCK)


class Broken(Exception):
    """A rule does not hold; the text is the reason."""


class NotApplicable(Exception):
    """A rule has nothing to check on this model; the text is the reason."""


@dataclasses.dataclass(frozen=True)
class Rule:
    """One rule.

    Attributes:
        name: Its name.
        summary: What must hold, in one line.
        check: Raises :class:`Broken` or :class:`NotApplicable`.
        needs: What the model must be able to do; the reason where the library raises an error.
    """

    name: str
    summary: str
    check: Callable[[LanguageModel], None]
    needs: str


def _rows_for(model: LanguageModel, lengths: Sequence[int] = _LENGTHS) -> list[tuple[int, ...]]:
    """Rows of random tokens, equal in each run."""
    n_tokens = int(model.hf.get_input_embeddings().weight.shape[0])
    generator = torch.Generator().manual_seed(0)
    return [
        tuple(torch.randint(3, n_tokens, (min(length, model.context_length),),
                            generator=generator).tolist())
        for length in lengths
    ]  # fmt: skip


# ---------------------------------------------------------------- the library's own pass


def _logits(model: LanguageModel, ids: Sequence[int]) -> Tensor:
    """Logits of one row from the library alone, (T, V)."""
    row = torch.tensor([ids], device=model.device)
    logits: Tensor = model.hf(input_ids=row, use_cache=False).logits[0]
    return logits.float()


@contextlib.contextmanager
def _hooked(
    model: LanguageModel, hooks: Mapping[str, Callable[[Any, Tensor], Tensor | None]]
) -> Iterator[None]:
    """Hooks on modules, each ``(input, output) -> new output``; None keeps the output."""

    blocks = {model.architecture.block(layer) for layer in range(model.n_layers)}

    def hook(path: str, function: Callable[[Any, Tensor], Tensor | None]) -> Callable[..., Any]:
        def run(_: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any) -> Any:
            states = first(output)
            if not isinstance(states, Tensor):
                raise Broken(f"{_SHAPES[path in blocks]}, got {_kind(output)} from {path}")
            inputs = args[0] if args else kwargs["hidden_states"]
            if path in blocks and states.shape != inputs.shape:
                shape = tuple(states.shape)
                raise Broken(f"{_SHAPES[True]}, got {shape} from {path} for {tuple(inputs.shape)}")
            new = function(inputs, states)
            if new is None:
                return None
            return (new, *output[1:]) if isinstance(output, tuple) else new

        return run

    with contextlib.ExitStack() as stack:
        for path, function in hooks.items():
            module = model.hf.get_submodule(path)
            handle = module.register_forward_hook(hook(path, function), with_kwargs=True)
            stack.callback(handle.remove)
        yield


def _kind(output: Any) -> str:
    inside = type(output[0]).__name__ if isinstance(output, tuple) and output else ""
    return f"a tuple that begins with {inside}" if inside else type(output).__name__


def _watch(
    model: LanguageModel, ids: Sequence[int], paths: Sequence[str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Input and output of modules in the library's pass over one row, each (T, ...)."""
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def keep(path: str) -> Callable[[Any, Tensor], None]:
        def store(inputs: Tensor, output: Tensor) -> None:
            rows = [each.detach().clone().reshape(len(ids), -1) for each in (inputs, output)]
            seen[path] = rows[0], rows[1]

        return store

    with _hooked(model, {path: keep(path) for path in paths}):
        _logits(model, ids)
    for path in paths:
        if path not in seen:
            raise Broken(f"the model never calls {path}")
    return seen


def _compare(
    actual: Tensor, expected: Tensor, what: str, *, tolerance: float | None = None
) -> None:
    tolerance = TOLERANCE if tolerance is None else tolerance
    actual, expected = actual.detach().float(), expected.detach().float()
    if actual.shape != expected.shape:
        raise Broken(f"{what}: shape {tuple(actual.shape)} instead of {tuple(expected.shape)}")
    largest = float(expected.abs().max())
    error = float((actual - expected).abs().max()) / max(largest, 1e-12)
    if not error <= tolerance:  # NaN fails, too
        raise Broken(f"{what}: off by {error:.1e} of the largest value (tolerance {tolerance:.0e})")


def _layers_with_mlp(model: LanguageModel) -> list[int]:
    """Blocks whose MLP can be edited: a block with experts has no single projection."""
    layers = []
    for layer in range(model.n_layers):
        with contextlib.suppress(ModelError):
            model.path(layer, "mlp_out")
            layers.append(layer)
    return layers


def _spread(layers: Sequence[int]) -> list[int]:
    """Up to three of some layers: the first, one in the middle, the last."""
    if not layers:
        return []
    return sorted({layers[0], layers[len(layers) // 2], layers[-1]})


# ---------------------------------------------------------------- modules and head


def _modules(model: LanguageModel) -> None:
    architecture, hf = model.architecture, model.hf
    with_mlp = _layers_with_mlp(model)
    for layer in range(model.n_layers):
        matrices = [*architecture.qkv, architecture.attention_out]
        if layer in with_mlp:
            matrices += [*architecture.mlp_in, architecture.mlp_out]
        for part in matrices:
            path = architecture.path(layer, part)
            try:
                module = hf.get_submodule(path)
            except AttributeError:
                raise Broken(f"there is no module {path}") from None
            if not is_matrix_module(module):
                raise Broken(f"{path} is a {type(module).__name__}, not a linear module")
    for field, path, expected in (
        ("embedding", architecture.embedding, hf.get_input_embeddings()),
        ("head", architecture.head, hf.get_output_embeddings()),
    ):
        try:
            module = hf.get_submodule(path)
        except AttributeError:
            raise Broken(f"there is no module {path} ({field})") from None
        if module is not expected:
            raise Broken(f"{path} is not the {field} that the library names")
    for field, where in (
        ("final_norm", architecture.final_norm),
        ("position_embedding", architecture.position_embedding),
    ):
        if where is not None:
            try:
                hf.get_submodule(where)
            except AttributeError:
                raise Broken(f"there is no module {where} ({field})") from None


def _head(model: LanguageModel) -> None:
    last = model.architecture.block(model.n_layers - 1)
    for ids in _rows_for(model):
        expected = _logits(model, ids)  # (T, V)
        row = torch.tensor([ids], device=model.device)
        states = forward(model, row)
        _compare(model.head(states)[0], expected, "logits of our head")
        _, after_last = _watch(model, ids, [last])[last]
        ours = model.head(model.final_hidden(after_last))
        _compare(ours, expected, "logits from the last block's output")
        wanted = row.roll(-1)
        log_p = model.log_probability(states, wanted)[0]
        true = torch.log_softmax(expected, dim=-1).gather(-1, wanted[0][:, None])[:, 0]
        _compare(log_p, true, "log-probabilities of single tokens")


# ---------------------------------------------------------------- blocks


def _contributions(model: LanguageModel) -> None:
    ids = _rows_for(model)[0]
    for layer in range(model.n_layers):
        block = model.architecture.block(layer)
        parts = [model.architecture.adds(layer, part) for part in PARTS]
        seen = _watch(model, ids, [block, *parts])
        added = torch.stack([seen[part][1] for part in parts]).sum(dim=0)  # (T, H)
        inputs, output = seen[block]
        expected = output - inputs
        what = f"what attention and MLP add in block {layer}, against its output minus its input"
        _compare(added * model.architecture.residual_scale, expected, what)


def _parallel(model: LanguageModel) -> None:
    """Whether a change of the attention's output reaches the MLP of the same block."""
    ids, layers = _rows_for(model)[0], _layers_with_mlp(model)
    if not layers:
        raise NotApplicable("no block has an MLP of its own")
    architecture, layer = model.architecture, layers[len(layers) // 2]
    mlp = architecture.path(layer, architecture.mlp_in[0])
    attention = architecture.adds(layer, "attention_out")
    [before, _] = _watch(model, ids, [mlp])[mlp]

    def shift(_: Any, output: Tensor) -> Tensor:
        ramp = torch.linspace(-1, 1, output.shape[-1], device=output.device, dtype=output.dtype)
        return output + ramp * output.abs().max()

    with _hooked(model, {attention: shift}):
        [after, _] = _watch(model, ids, [mlp])[mlp]
    reads_it = bool((after - before).abs().max() > TOLERANCE * before.abs().max())
    if reads_it == architecture.parallel:
        does = "reads" if reads_it else "does not read"
        raise Broken(
            f"the MLP of a block {does} what its attention adds, but the entry has "
            f"parallel={architecture.parallel}"
        )


# ---------------------------------------------------------------- reuse


def _prefix(model: LanguageModel, lengths: Sequence[int] = _LENGTHS) -> None:
    rows = _rows_for(model, lengths)
    device = model.device
    for cuts in ([1, 4, 0], [len(row) - 1 for row in rows], [4] * len(rows)):
        starts = torch.tensor(cuts, device=device)
        heads = [row[: max(cut, 1)] for row, cut in zip(rows, cuts, strict=True)]
        tails = [row[cut:] for row, cut in zip(rows, cuts, strict=True)]
        prefix, _ = run_prefix(model, padded(heads, device), starts)
        ids = padded(tails, device)
        after = model.head(forward_after(model, prefix, ids, starts))
        middle = model.n_layers // 2
        tail = Tail.record(model, prefix, ids, starts, start=middle)
        again = model.head(model.final_hidden(tail.run(tail.hidden)))
        ends = torch.tensor([len(each) - 1 for each in tails], device=device)
        reads = Reads.of(torch.arange(len(rows), device=device), ends, len(rows))
        read = model.head(model.final_hidden(tail.read(tail.hidden, reads)))
        for number, (row, cut) in enumerate(zip(rows, cuts, strict=True)):
            expected = _logits(model, row)[cut:]
            where = f"row of {len(row)} tokens, {cut} of them reused"
            _compare(after[number, : len(expected)], expected, where)
            what = f"{where}, blocks run again from {middle}"
            _compare(again[number, : len(expected)], expected, what)
            what = f"{where}, the last block only at the last token"
            _compare(read[number], expected[-1], what)
    beginnings = [tuple(row[:n]) for row in rows for n in {len(row) // 2, len(row)}]
    texts = list(dict.fromkeys((*beginnings, *(text[:-1] + rows[0][:2] for text in beginnings))))
    for tree in trees_of(texts, longest_tree(model, max(map(len, texts)))):
        logits = model.head(forward_trees(model, [tree]))[0]
        for number, place in tree.read:
            what = f"text of {len(texts[number])} tokens in a row with others (distance_biases?)"
            _compare(logits[place], _logits(model, texts[number])[-1], what)


def _recorded(model: LanguageModel, lengths: Sequence[int] = _LENGTHS) -> None:
    ids = _rows_for(model, lengths)[0]
    blocks = [model.architecture.block(layer) for layer in range(model.n_layers)]
    outputs = _watch(model, ids, blocks)
    start, skip = 1, 3
    row = torch.tensor(ids, device=model.device)
    recorded = RecordedPass.record(model, row, start, 2)
    for layer, block in enumerate(blocks):
        inputs, output = outputs[block]
        where = f"block {layer} run again"
        _compare(recorded.states[layer][1], inputs[start:], f"recorded input of block {layer}")
        hidden = inputs[start + skip :][None].expand(4, -1, -1)
        for only in (None, 2):
            again = recorded.run(layer, hidden, skip=skip, rows=slice(0, 2), only=only)
            for number in (0, 3):
                _compare(again[number], output[start + skip :][-again.shape[1] :], where)
    _replaced(model, recorded, ids, start, skip)


def _replaced(
    model: LanguageModel, recorded: RecordedPass, ids: Sequence[int], start: int, skip: int
) -> None:
    """What a part adds, replaced at the last tokens: the block's output against the library's."""
    for layer in _spread(range(model.n_layers)):
        block = model.architecture.block(layer)
        inputs, _ = _watch(model, ids, [block])[block]
        for part in PARTS:
            path = model.architecture.adds(layer, part)

            def halve(_: Any, output: Tensor) -> Tensor:
                new = output.reshape(len(ids), -1).clone()
                new[start + skip :] *= 0.5
                return new.reshape(output.shape)

            with _hooked(model, {path: halve}):
                expected = _watch(model, ids, [block])[block][1][start + skip :]
            again = recorded.run(
                layer,
                inputs[start + skip :][None].expand(2, -1, -1),
                skip=skip,
                rows=slice(0, 2),
                replace={part: lambda output: output * 0.5},
            )
            _compare(again[1], expected, f"block {layer} run again with another {part}")


# ---------------------------------------------------------------- edits


@contextlib.contextmanager
def _written(model: LanguageModel, changes: Mapping[str, Tensor]) -> Iterator[None]:
    """Weights with changes (in, out) added, restored by copy."""
    kept = {}
    for name, change in changes.items():
        weight = model.hf.get_parameter(name)
        kept[name] = weight.detach().clone()
        module = model.hf.get_submodule(name.rpartition(".")[0])
        with torch.no_grad():
            weight.add_(as_stored(module, change).to(weight))
    try:
        yield
    finally:
        with torch.no_grad():
            for name, weight in kept.items():
                model.hf.get_parameter(name).copy_(weight)


def _edits(model: LanguageModel) -> None:
    rows, architecture = _rows_for(model), model.architecture
    sites = [(layer, part) for layer in _spread(range(model.n_layers)) for part in architecture.qkv]
    sites += [
        (layer, part)
        for layer in _spread(_layers_with_mlp(model))
        for part in (*architecture.mlp_in, architecture.mlp_out)
    ]
    generator = torch.Generator().manual_seed(1)
    identity = model.fingerprint
    for layer, part in sites:
        path = architecture.path(layer, part)
        name = f"{path}.weight"
        module = model.hf.get_submodule(path)
        weight = input_major(module, model.hf.get_parameter(name)).detach()  # (in, out)
        size = float(weight.float().std()) or 1.0
        changes = [
            torch.randn(weight.shape, generator=generator).to(weight.device) * size
            for _ in range(2)
        ]
        deltas = [
            WeightDelta(
                {name: Dense(change)},
                request=None,
                editor="check-architecture",
                config={},
                model_fingerprint=identity,
            )
            for change in changes
        ]
        edits = [0, 1, 0]
        edited = EditedModels(model, deltas)
        with edited.rows(edits):
            states = forward(model, padded(rows, model.device))
        for number, (row, edit) in enumerate(zip(rows, edits, strict=True)):
            with _written(model, {name: changes[edit]}):
                expected = _logits(model, row)
            ours = model.head(states[number, : len(row)])
            _compare(ours, expected, f"an edit of {path} in a batch of edited models")


def _padding(model: LanguageModel, lengths: Sequence[int] = _LENGTHS) -> None:
    rows = _rows_for(model, lengths)
    states = forward(model, padded(rows, model.device))
    for number, row in enumerate(rows):
        ours = model.head(states[number, : len(row)])
        _compare(ours, _logits(model, row), f"a row of {len(row)} tokens in a padded batch")


def _gradients(model: LanguageModel) -> None:
    """An offset to the MLP's projection at one token: loss and gradient, all above run again."""
    layers = _layers_with_mlp(model)
    if not layers:
        raise NotApplicable("no block has an MLP of its own")
    ids, device = _rows_for(model)[0], model.device
    position, width = 4, model.hidden_size
    generator = torch.Generator().manual_seed(2)
    for layer in _spread(layers):
        path = model.path(layer, "mlp_out")
        scale = float(_watch(model, ids, [path])[path][1].abs().max())
        start = torch.randn(width, generator=generator).to(device) * scale
        plain, ours = (start.clone().requires_grad_() for _ in range(2))

        def shifted(states: Tensor, offset: Tensor, at: int) -> Tensor:
            flat = states.reshape(-1, width).clone()
            flat[at] = flat[at] + offset.to(flat)
            return flat.reshape(states.shape)

        with torch.enable_grad(), model.frozen():
            hook = {path: lambda _, out, offset=plain: shifted(out, offset, position)}
            with _hooked(model, hook):
                expected = torch.log_softmax(_logits(model, ids), dim=-1)
            logits = _after_offset(model, ids, layer, position, ours, shifted)
            actual = torch.log_softmax(logits, dim=-1)
            _compare(actual, expected[position:], f"log-probabilities with an offset at {path}")
            target = ids[-1]
            [wanted] = torch.autograd.grad(expected[-2, target], plain)
            [got] = torch.autograd.grad(actual[-2, target], ours)
        what = f"the gradient of an offset at {path}"
        _compare(got, wanted, what, tolerance=GRADIENT_TOLERANCE)


def _after_offset(
    model: LanguageModel,
    ids: Sequence[int],
    layer: int,
    position: int,
    offset: Tensor,
    shifted: Callable[[Tensor, Tensor, int], Tensor],
) -> Tensor:
    """Logits from ``position`` on, as editors compute them: prefix reused, upper blocks alone."""
    device, path = model.device, model.path(layer, "mlp_out")
    starts = torch.tensor([position], device=device)
    architecture = model.architecture
    direct = architecture.adds(layer, "mlp_out") == path and architecture.residual_scale == 1
    with torch.no_grad():
        prefix, _ = run_prefix(model, torch.tensor([ids[:position]], device=device), starts)
    rest = torch.tensor([ids[position:]], device=device)
    tail = Tail.record(model, prefix, rest, starts, start=layer + direct)
    if direct:
        states = tail.run(shifted(tail.hidden, offset, 0))
    else:
        with replacing(model, {path: lambda _, output: shifted(output, offset, 0)}):
            states = tail.run(tail.hidden)
    return model.head(model.final_hidden(states))[0]


def _windows(model: LanguageModel) -> None:
    window, longest = window_of(model.hf.config), min(_LONG[0], model.context_length)
    if window is None:
        raise NotApplicable("the model has no windows")
    if longest <= window:
        raise NotApplicable(f"its window of {window} tokens is longer than the rows of this check")
    _padding(model, _LONG)
    _prefix(model, _LONG)
    _recorded(model, _LONG)


_PASS = "the model must accept input_ids and return logits"
_CACHE = (
    "the attention must add keys and values (B, heads, S, D) to the model's cache and read them"
)
_ALONE = "a block must run on hidden states (B, S, H) with the other arguments of a whole pass"

RULES: tuple[Rule, ...] = (
    Rule(
        "modules",
        "every module of the entry exists, and projections are linear",
        _modules,
        "the paths must name modules of the model",
    ),
    Rule("logits", "the logits of our head equal the library's", _head, f"{_PASS}; {_BLOCK}"),
    Rule("blocks", "a block's output is its input plus attention and MLP", _contributions, _BLOCK),
    Rule(
        "parallel",
        "the MLP reads what the attention added unless parallel is set",
        _parallel,
        _MODULE,
    ),
    Rule(
        "padding",
        "rows of different lengths in one batch equal single rows",
        _padding,
        "a padded batch must run with a mask and the positions of each row",
    ),
    Rule("prefix", "reusing a prefix's keys and values equals the whole pass", _prefix, _CACHE),
    Rule("recorded", "running a recorded block again equals the whole pass", _recorded, _ALONE),
    Rule(
        "edits",
        "many edited models in one pass equal edits of the weights",
        _edits,
        "a projection must map (..., in) to (..., out) with its weight",
    ),
    Rule(
        "gradients",
        "an offset to the MLP's output has the library's gradient",
        _gradients,
        f"a pass must have gradients; {_ALONE}",
    ),
    Rule("windows", "rows longer than the attention's window", _windows, _CACHE),
)
"""All rules, the most basic first."""
