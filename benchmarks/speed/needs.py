"""The operations that each case needs, counted from its tokens and the model's sizes.

Tokens that several rows begin with are counted once. Positions whose prediction nobody reads pass
only the key and value projections of the last block.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from editkit.editing.rome_rows import RequestRows
from editkit_benchmarks.speed.limits import Needed, Product, Sizes, through, total

Row = tuple[int, ...]
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
    sizes: Sizes, *, tokens: int, first: int, samples: int, windows: int, window: int
) -> Needed:
    """A causal trace: a clean and N corrupted runs, then a restored run for each site.

    A run that restores token i from block l on needs tokens from i on, in the blocks above l. Runs
    of a window that begins at block 0 share all blocks up to the first window's end.

    Args:
        sizes: Dimensions.
        tokens: Tokens T of the prompt.
        first: The subject's first token.
        samples: Draws N of the noise.
        windows: Number of kinds that restore windows; the kind ``state`` is always traced.
        window: Layers of a window.
    """
    every = range(sizes.layers)
    starts = [layer + 1 for layer in every]  # of the kind ``state``
    for _ in range(windows):
        for layer in every:
            low = max(0, layer - window // 2)
            high = min(sizes.layers, layer + window - window // 2)
            starts.append(high if low == 0 and layer > 0 else low + 1)
    pairs = _pairs_of(first, tokens)
    baseline = through(
        sizes,
        tokens=first + (1 + samples) * (tokens - first),
        reads=1 + samples,
        blocks=sizes.layers,
        pairs=(1 + samples) * pairs,
    )
    runs = [
        through(
            sizes,
            tokens=samples * (tokens - token),
            reads=samples,
            blocks=sizes.layers - start,
            pairs=samples * _pairs_of(token, tokens),
        )
        for token in range(first, tokens)
        for start in starts
        if start < sizes.layers
    ]
    restored = total(runs)
    batched = tuple(
        Product(_ROWS, p.inner, p.outer, p.times * p.rows / _ROWS) for p in restored.products
    )
    return baseline + Needed(batched, restored.attention, baseline.bytes * sizes.layers)


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
