"""Physical limits: floating-point operations and bytes that work needs, and this machine's rates.

    limit = max(sum over products of flops / rate of a plain product of that shape,
                bytes / memory bandwidth)

The rates are those of ``torch.mm`` and of a large copy, measured here. Everything else that a model
computes (norms, GELU, softmax, indexing) is taken to cost nothing, so no implementation reaches the
limit on small models.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterable
from typing import Any

import torch

_MEASURED_S = 0.05  # seconds for one rate
_MOST_ROWS = 2048  # a product with more rows is measured with this many
_COPIED = 2**28  # bytes


@dataclasses.dataclass(frozen=True)
class Product:
    """Matrix products (rows, inner) x (inner, outer).

    Attributes:
        rows: Rows of one product; what one batch can hold.
        inner: Summed dimension.
        outer: Columns.
        times: How many of them; not always whole.
    """

    rows: int
    inner: int
    outer: int
    times: float = 1.0

    @property
    def flops(self) -> float:
        """A multiplication and an addition for each of rows x inner x outer."""
        return 2.0 * self.rows * self.inner * self.outer * self.times


@dataclasses.dataclass(frozen=True)
class Needed:
    """What some work cannot do without.

    Attributes:
        products: Products with weights.
        attention: FLOPs of products between queries, keys and values.
        bytes: Read and written, if nothing stays in a cache between passes.
    """

    products: tuple[Product, ...] = ()
    attention: float = 0.0
    bytes: float = 0.0

    def __add__(self, other: Needed) -> Needed:
        return Needed(
            self.products + other.products,
            self.attention + other.attention,
            self.bytes + other.bytes,
        )

    def times(self, factor: float) -> Needed:
        """The same work several times."""
        products = (dataclasses.replace(p, times=p.times * factor) for p in self.products)
        return Needed(tuple(products), self.attention * factor, self.bytes * factor)

    @property
    def flops(self) -> float:
        """FLOPs of all products."""
        return sum(product.flops for product in self.products) + self.attention


def total(parts: Iterable[Needed]) -> Needed:
    """The sum of all parts."""
    return sum(parts, start=Needed())


# ---------------------------------------------------------------- a model's products


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Dimensions of a decoder: GPT-2, or Llama with its gated MLP.

    Attributes:
        layers: Blocks L.
        hidden: Width of the residual stream H.
        queries: Width of all query heads.
        keys: Width of all key heads; values have as many.
        inner: Width of the MLP's inner space D.
        gated: Whether the MLP has two input projections.
        vocabulary: Tokens V.
        value_bytes: Bytes of one number.
    """

    layers: int
    hidden: int
    queries: int
    keys: int
    inner: int
    gated: bool
    vocabulary: int
    value_bytes: int = 4

    @classmethod
    def of(cls, config: Any, dtype: torch.dtype = torch.float32) -> Sizes:
        """The sizes in a transformers configuration."""
        hidden, heads = config.hidden_size, config.num_attention_heads
        head = getattr(config, "head_dim", None) or hidden // heads
        gated = hasattr(config, "intermediate_size")
        inner = config.intermediate_size if gated else config.n_inner or 4 * hidden
        return cls(
            layers=config.num_hidden_layers,
            hidden=hidden,
            queries=heads * head,
            keys=(getattr(config, "num_key_value_heads", None) or heads) * head,
            inner=inner,
            gated=gated,
            vocabulary=config.vocab_size,
            value_bytes=dtype.itemsize,
        )

    @property
    def attention_out(self) -> tuple[tuple[int, int], ...]:
        """(inner, outer) of a block's products for queries and for the attention's output."""
        return ((self.hidden, self.queries), (self.queries, self.hidden))

    @property
    def mlp(self) -> tuple[tuple[int, int], ...]:
        """(inner, outer) of a block's products in the MLP."""
        into = ((self.hidden, self.inner),) * (1 + self.gated)
        return (*into, (self.inner, self.hidden))

    @property
    def block_weights(self) -> int:
        """Number of weights in one block's matrices."""
        matrices = (*self.attention_out, *self.mlp, (self.hidden, 2 * self.keys))
        return sum(inner * outer for inner, outer in matrices)


def through(
    sizes: Sizes,
    *,
    tokens: int,
    reads: int,
    blocks: int,
    pairs: int = 0,
    head: bool = True,
) -> Needed:
    """Tokens pass some blocks, and the head where a prediction is read.

    The last block needs only keys and values, except at the positions that are read.

    Args:
        sizes: Dimensions.
        tokens: Tokens in the batch.
        reads: Positions that are read.
        blocks: Number of blocks; the head follows the last one.
        pairs: Pairs of a token and a token that it attends to, in one block.
        head: Whether predictions are read; else states.
    """
    products = []
    if blocks:
        products.append(Product(tokens, sizes.hidden, 2 * sizes.keys, blocks))
        for inner, outer in (*sizes.attention_out, *sizes.mlp):
            products.append(Product(tokens, inner, outer, blocks - 1))
            products.append(Product(reads, inner, outer))
    if head:
        products.append(Product(reads, sizes.hidden, sizes.vocabulary))
    weights = blocks * sizes.block_weights + head * sizes.hidden * sizes.vocabulary
    attended = pairs * (blocks - 1 + reads / max(1, tokens)) if blocks else 0.0
    kept = tuple(p for p in products if p.rows and p.times)
    return Needed(kept, 4.0 * sizes.queries * attended, float(weights * sizes.value_bytes))


# ---------------------------------------------------------------- this machine's rates


@dataclasses.dataclass(frozen=True)
class Limit:
    """The least time for some work on a machine.

    Attributes:
        flops: FLOPs needed.
        products_s: Seconds of its products at the rates of plain ones.
        memory_s: Seconds to move its bytes.
    """

    flops: float
    products_s: float
    memory_s: float

    @property
    def seconds(self) -> float:
        """The limit."""
        return max(self.products_s, self.memory_s)

    def to_dict(self, seconds: float) -> dict[str, Any]:
        """The limit next to a measured time, as plain data."""
        return {
            "flops": self.flops,
            "limit_ms": 1000 * self.seconds,
            "bound_by": "products" if self.products_s >= self.memory_s else "memory",
            "share_of_limit": self.seconds / seconds,
        }


class Rates:
    """Rates of a device, each measured when first asked for.

    Args:
        device: ``cpu`` or ``cuda``.
        dtype: Type of the products.
    """

    def __init__(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        self.device, self.dtype = torch.device(device), dtype
        self._flops: dict[tuple[int, int, int], float] = {}
        self._bandwidth: float | None = None

    def of_product(self, product: Product) -> float:
        """FLOPs per second of ``torch.mm`` on matrices of this shape."""
        rows = min(product.rows, _MOST_ROWS)
        key = (rows, product.inner, product.outer)
        if key not in self._flops:
            a = torch.randn(rows, product.inner, device=self.device).to(self.dtype)
            b = torch.randn(product.inner, product.outer, device=self.device).to(self.dtype)
            out = torch.mm(a, b)
            seconds = self._seconds(lambda: torch.mm(a, b, out=out))
            self._flops[key] = 2.0 * rows * product.inner * product.outer / seconds
        return self._flops[key]

    @property
    def bandwidth(self) -> float:
        """Bytes per second that a copy of 256 MiB reads and writes."""
        if self._bandwidth is None:
            source = torch.zeros(_COPIED // 4, device=self.device)
            target = torch.empty_like(source)
            self._bandwidth = 2.0 * _COPIED / self._seconds(lambda: target.copy_(source))
        return self._bandwidth

    def limit(self, needed: Needed) -> Limit:
        """The least time for some work; attention runs at the best rate of its products."""
        by_rate = [(p.flops, self.of_product(p)) for p in needed.products]
        best = max((rate for _, rate in by_rate), default=1.0)
        seconds = sum(flops / rate for flops, rate in by_rate) + needed.attention / best
        return Limit(needed.flops, seconds, needed.bytes / self.bandwidth)

    def to_dict(self) -> dict[str, Any]:
        """All measured rates: GFLOP/s by shape, and GB/s."""
        return {
            "dtype": str(self.dtype).removeprefix("torch."),
            "gflops": {
                "x".join(map(str, shape)): round(rate / 1e9, 1)
                for shape, rate in sorted(self._flops.items())
            },
            "gb_per_s": None if self._bandwidth is None else round(self._bandwidth / 1e9, 1),
        }

    def _seconds(self, work: Any) -> float:
        """Seconds of one call: the best of repeats; CPU seconds if there is one thread."""
        on_gpu = self.device.type == "cuda"
        alone = not on_gpu and torch.get_num_threads() == 1
        clock = time.process_time if alone else time.perf_counter
        work()
        best, spent, calls = float("inf"), 0.0, 1
        while spent < _MEASURED_S:
            if on_gpu:
                torch.cuda.synchronize()
            start = clock()
            for _ in range(calls):
                work()
            if on_gpu:
                torch.cuda.synchronize()
            taken = clock() - start
            spent += taken
            if taken < _MEASURED_S / 20:  # shorter than the clock can tell
                calls *= 4
            else:
                best = min(best, taken / calls)
        return best if best < float("inf") else spent / calls
