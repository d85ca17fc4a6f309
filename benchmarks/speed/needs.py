"""The operations that each case needs, counted from its tokens and the model's sizes.

Tokens that several rows begin with are counted once. Positions whose prediction nobody reads pass
only the key and value projections of the last block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from editkit.editing.rome_rows import RequestRows
from editkit_benchmarks.speed.limits import Needed, Product, Sizes, through
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.restored_runs import PatchedRun, plan_runs

Row = tuple[int, ...]
_TRACED: tuple[Kind, ...] = ("state", "mlp", "attn")
_ROWS = 512  # of a trace's products: runs of many sites share a batch


def prefixes(rows: Iterable[Row]) -> set[Row]:
    """The distinct beginnings of rows: each is one token to compute."""
    return {row[:end] for row in rows for end in range(1, len(row) + 1)}


def editing(sizes: Sizes, requests: Sequence[RequestRows], layer: int, evaluations: int) -> Needed:
    """ROME's values of several requests in one batch.

    Once: all tokens up to the edited layer, and those before the edited token through all blocks.
    In each evaluation of the loss: tokens from the edited one through the blocks above, forward,
    and backward with as many FLOPs in all evaluations but the last. Gradients of weights are not
    needed.
    """
    before: set[Row] = set()
    n_after = pairs_after = reads = 0
    for request in requests:
        after: set[Row] = set()
        read: set[Row] = set()
        for row in request.in_loss:
            all_of_row = prefixes([row.ids])
            before |= {each for each in all_of_row if len(each) <= row.position}
            after |= {each for each in all_of_row if len(each) > row.position}
            ends = range(row.read, row.read + max(1, len(row.labels)))
            read |= {row.ids[: end + 1] for end in ends}
        n_after += len(after)
        pairs_after += sum(map(len, after))
        reads += len(read)
    once = through(
        sizes, tokens=len(before), reads=0, blocks=sizes.layers, pairs=_pairs(before), head=False
    ) + through(
        sizes,
        tokens=n_after,
        reads=n_after,
        blocks=layer + 1,
        pairs=pairs_after,
        head=False,
    )
    each = through(
        sizes, tokens=n_after, reads=reads, blocks=sizes.layers - layer - 1, pairs=pairs_after
    )
    return once + each.times(2 * evaluations - 1)


def scoring(sizes: Sizes, records: Sequence[Sequence[tuple[Row, Row]]]) -> Needed:
    """The NLL of answers after prompts, all records in one batch.

    Args:
        sizes: Dimensions.
        records: For each record, the pairs of a prompt and an answer.
    """
    tokens = reads = pairs = 0
    for completions in records:
        nodes = prefixes(prompt + answer[:-1] for prompt, answer in completions)
        read = {prompt + answer[:i] for prompt, answer in completions for i in range(len(answer))}
        tokens, reads, pairs = tokens + len(nodes), reads + len(read), pairs + _pairs(nodes)
    return through(sizes, tokens=tokens, reads=reads, blocks=sizes.layers, pairs=pairs)


def generating(sizes: Sizes, prompts: Sequence[Row], length: int, *, texts: int) -> Needed:
    """Texts of a number of tokens, prompts included: prompts once, then a step for every token.

    Args:
        sizes: Dimensions.
        prompts: The prompts.
        length: Tokens of each text.
        texts: Texts that are written side by side.
    """
    nodes = prefixes(prompts)
    read = through(
        sizes, tokens=len(nodes), reads=len(prompts), blocks=sizes.layers, pairs=_pairs(nodes)
    )
    written = sum(length - len(prompt) - 1 for prompt in prompts)  # the first one is read above
    step = through(sizes, tokens=texts, reads=texts, blocks=sizes.layers, pairs=texts * length // 2)
    cache = texts * (length // 2) * 2 * sizes.keys * sizes.layers * sizes.value_bytes
    step += Needed(bytes=float(cache))
    return read + step.times(written / texts)


def tracing(
    sizes: Sizes,
    *,
    tokens: int,
    first: int,
    samples: int,
    windows: int,
    window: int | None,
    answer: int = 1,
) -> Needed:
    """A causal trace: a clean and N corrupted runs, then the restored runs of every site.

    From the restored token on, all runs and all draws differ in every block above the restored one,
    so these tokens must pass these blocks. Not needed are

    - tokens left of the restored one, and blocks up to it: they are those of the corrupted run;
    - in the first block above, queries, keys and values right of the restored token;
    - attention or MLP at the restored token where its output is restored;
    - runs that restore what the answer does not depend on, or the answer's own last state.

    Args:
        sizes: Dimensions.
        tokens: Tokens T of the prompt.
        first: The subject's first token.
        samples: Draws N of the noise.
        windows: Kinds that restore windows: 0, 1 (``mlp``) or 2 (and ``attn``); ``state`` is always
            traced.
        window: Layers of a window; None: as many as suit the depth.
        answer: Tokens of the answer.
    """
    length = tokens + answer - 1
    baseline = through(
        sizes,
        tokens=first + (1 + samples) * (length - first),
        reads=(1 + samples) * answer,
        blocks=sizes.layers,
        pairs=(1 + samples) * _pairs_of(first, length),
    )
    config = CausalTracingConfig(window=window)
    runs = [
        run
        for kind in _TRACED[: 1 + windows]
        for group in plan_runs(kind, sizes.layers, config)
        for run in group
    ]
    projected: Counter[tuple[int, int]] = Counter()  # tokens, by (inner, outer) of a product
    pairs = 0
    for token in range(first, tokens):
        for run in runs:
            pairs += _restored(sizes, run, token, length, answer, projected)
    batched = tuple(
        Product(_ROWS, inner, outer, samples * n / _ROWS) for (inner, outer), n in projected.items()
    )
    attention = 4.0 * sizes.queries * samples * pairs
    return baseline + Needed(batched, attention, baseline.bytes * sizes.layers)


def _restored(
    sizes: Sizes,
    run: PatchedRun,
    token: int,
    length: int,
    answer: int,
    projected: Counter[tuple[int, int]],
) -> int:
    """Add the tokens that one run of one draw projects, and return its pairs."""
    n, last = length - token, sizes.layers - 1
    is_read = n <= answer  # the answer's prediction starts from the restored token's last state
    if run.start == last and run.parent is None and (not is_read or run.restores == "state"):
        return 0
    pairs = 0
    if run.layers:
        projected[sizes.hidden, sizes.vocabulary] += answer
    if run.restores == "attention_out":  # the block's MLP reads it
        projected.update(dict.fromkeys(sizes.mlp, 1))
    for layer in range(run.start + 1, last + 1):
        n_outputs = n if layer < last or is_read else answer
        own = n_outputs == n  # the restored token is among them
        given = run.overwrites if own and layer <= run.end else ()
        n_attention = n_outputs - ("attention_out" in given)
        n_queries, n_keys = n_attention, n if n_attention else 0
        if layer == run.start + 1 and run.parent is None:
            n_queries, n_keys = int(own and "attention_out" not in given), 1
        into, out = sizes.attention_out
        projected[into] += n_queries
        projected[out] += n_attention
        projected[sizes.hidden, 2 * sizes.keys] += n_keys
        for projection in sizes.mlp:
            projected[projection] += n_outputs - ("mlp_out" in given)
        pairs += _pairs_of(length - n_attention, length)
    return pairs


def statistics(sizes: Sizes, *, tokens: int, rows: int, layer: int) -> Needed:
    """The second moment of an MLP's inner activations over a corpus.

    Args:
        sizes: Dimensions.
        tokens: Tokens of the corpus.
        rows: Tokens of one batch.
        layer: The block; nothing above it runs, nor its MLP's output projection.
    """
    below = through(sizes, tokens=rows, reads=rows, blocks=layer + 1, head=False)
    output = Product(rows, sizes.inner, sizes.hidden)
    kept = list(below.products)
    kept.remove(output)
    outer = Product(sizes.inner, rows, sizes.inner)
    batch = Needed((*kept, outer), bytes=below.bytes)
    return batch.times(tokens / rows)


def _pairs(nodes: Iterable[Row]) -> int:
    return sum(map(len, nodes))


def _pairs_of(first: int, tokens: int) -> int:
    """Pairs of tokens ``first`` to T - 1 with those up to themselves."""
    return sum(range(first + 1, tokens + 1))
