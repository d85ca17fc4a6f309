"""What ROME needs in memory besides the weights."""

from __future__ import annotations

from editkit import Needs, StatisticNeeds
from editkit.models import ModelShape
from editkit_plugins.rome.config import RomeConfig

_FLOAT, _DOUBLE = 4, 8


def rome_needs(config: RomeConfig, shape: ModelShape, *, requests: int, tokens: int) -> Needs:
    """Memory for the second moment, its factor, and the activations of requests side by side.

    The edited token is taken to stand in the middle of a request: only what comes after it is
    run again at each step.
    """
    layer = shape.n_layers // 3 if config.layer is None else config.layer
    path = shape.path(layer, "mlp_out")
    square = shape.inner_size**2 if config.second_moment else 0
    contexts = config.contexts
    sampled = sum(n for n, _ in config.context_lengths) if contexts is None else len(contexts)
    rows = 1 if config.plain else requests
    in_loss = (sampled if config.value_contexts else 0) + 1
    rows_per_request = in_loss + 1  # the bare prompt, and the essence
    width = tokens if config.plain else tokens // 2 + 1
    upper = shape.n_layers - layer
    budget = config.memory_mb * 2**20 // (_FLOAT * 40 * shape.hidden_size * upper)
    together = max(1, min(rows, budget // (rows_per_request * width)))
    n_rows = together * rows_per_request
    activations = n_rows * width * shape.saved_bytes * upper
    read = n_rows * (width if config.plain else 2)  # logits, their softmax, and its gradient
    logits = 3 * read * shape.vocabulary * shape.bytes_per_value
    prefix = 2 * n_rows * (tokens - width) * shape.hidden_size * shape.bytes_per_value
    factor = square * _DOUBLE
    deltas = requests * (shape.inner_size + shape.hidden_size) * _FLOAT
    statistic = StatisticNeeds(
        path,
        shape.inner_size,
        None if config.second_moment_file else config.corpus,
        config.corpus_tokens,
        config.second_moment_file,
        config.corpus_order,
        config.corpus_seed,
        config.corpus_row_tokens,
    )
    return Needs(
        prepare=square * (_FLOAT + _DOUBLE + _DOUBLE),  # C, C in float64, its Cholesky factor
        edit=factor + activations + logits + prefix * shape.n_layers + deltas,
        deltas=factor + deltas,
        statistics=(statistic,) if config.second_moment else (),
        notes=(f"{together} of {requests} requests are optimised side by side (memory_mb)",),
    )
