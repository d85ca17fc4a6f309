"""Counted FLOPs are those of torch's counter, and no implementation needs fewer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from editkit import EditedModels, Fact, WeightDelta
from editkit.editing.edited_models import CandidateQuery
from editkit.editing.rome_rows import request_rows
from editkit_benchmarks.speed import needs
from editkit_benchmarks.speed.limits import Needed, Product, Rates, Sizes, through
from editkit_benchmarks.speed.shapes import atlas, first_records
from editkit_plugins.rome.config import RomeConfig
from editkit_plugins.rome.editor import RomeEditor
from editkit_plugins.tracing.causal_tracing import trace_fact
from editkit_plugins.tracing.config import CausalTracingConfig
from editkit_plugins.tracing.corruption import draw_noise
from editkit_plugins.tracing.tokenized_facts import TokenizedFact, tokenize_facts

CONFIGS = {
    "gpt2": GPT2Config(n_layer=3, n_embd=16, n_head=2, n_positions=32, vocab_size=50),
    "llama": LlamaConfig(
        num_hidden_layers=2,
        hidden_size=16,
        intermediate_size=24,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
    ),
}


def counted(work: Callable[[], Any]) -> int:
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


@pytest.mark.parametrize("family", CONFIGS)
def test_a_whole_pass_is_counted_as_torch_counts_it(family: str) -> None:
    config = CONFIGS[family]
    hf = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    ids = torch.zeros(3, 7, dtype=torch.long)
    sizes = Sizes.of(config)
    needed = through(sizes, tokens=21, reads=21, blocks=sizes.layers, pairs=3 * 7 * 7)
    with torch.no_grad():
        assert needed.flops == counted(lambda: hf(ids))


def test_positions_that_nobody_reads_need_only_keys_and_values_in_the_last_block() -> None:
    sizes = Sizes.of(CONFIGS["llama"])
    saved = through(sizes, tokens=9, reads=9, blocks=1, head=False).flops
    saved -= through(sizes, tokens=9, reads=2, blocks=1, head=False).flops
    others = 16 * 16 + 16 * 16 + 3 * 16 * 24  # queries, attention's output, gated MLP
    assert saved == 2 * 7 * others
    assert sizes.block_weights == others + 16 * 16  # keys and values: 2 heads of 4, each


def test_an_edit_does_no_less_than_is_needed() -> None:
    model, request = atlas(), first_records(1)[0].request
    contexts = ("It rains. ", "He has the. ", "It rains. ")
    config = RomeConfig(layer=1, steps=3, contexts=contexts, stop_loss=0, second_moment=False)
    rows = [request_rows(model, request, ("", *contexts), config)]
    needed = needs.editing(Sizes.of(model.hf.config), rows, 1, config.evaluations)
    done = counted(lambda: RomeEditor(config).solve(model, [request]))
    assert done >= needed.flops - needed.attention
    assert needed.flops > done / 3


def test_scores_do_no_less_than_is_needed() -> None:
    model, [record] = atlas(), first_records(1)
    probes = [probe for kind in ("rewrite", "paraphrase") for probe in record.probes[kind]]
    prompts = [probe.prompt for probe in probes for _ in range(2)]
    answers = [answer for probe in probes for answer in (probe.target_new, probe.target_true)]
    completions = model.complete(prompts, answers)
    needed = needs.scoring(
        Sizes.of(model.hf.config), [[(each.prompt, each.target) for each in completions]]
    )

    nothing = WeightDelta({}, record.request, "none", {}, model.fingerprint)
    asked = [CandidateQuery(0, p.prompt, (p.target_new, p.target_true)) for p in probes]
    done = counted(lambda: EditedModels(model, [nothing]).candidate_nll(asked))
    assert done >= needed.flops - needed.attention
    assert needed.flops > done / 3


def traced(sizes: Sizes, fact: TokenizedFact, config: CausalTracingConfig) -> Needed:
    return needs.tracing(
        sizes,
        tokens=len(fact.prompt),
        first=fact.subject[0],
        samples=config.samples,
        windows=2,
        window=config.window,
        answer=len(fact.answer),
    )


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("answer", [None, "Lima Peru"])
def test_a_trace_does_no_less_than_is_needed(samples: int, answer: str | None) -> None:
    model, request = atlas(), first_records(1)[0].request
    config = CausalTracingConfig(samples=samples, noise_level=0.1)
    [fact] = tokenize_facts(model, [Fact(request.sentence, request.subject, answer)])
    noise = draw_noise(model, fact, config, 0.1)
    needed = traced(Sizes.of(model.hf.config), fact, config)
    done = counted(lambda: trace_fact(model, fact, noise, config, config.kinds))
    assert 0.8 * done < needed.flops - needed.attention <= done


def test_a_trace_of_one_layer_needs_the_baseline_and_the_restored_mlps() -> None:
    """Sites of the last block matter at the last token only, and its clean state is known."""
    sizes = Sizes.of(GPT2Config(n_layer=1, n_embd=16, n_head=2, vocab_size=50))
    [fact] = tokenize_facts(atlas(), [Fact("Rome is in", "Rome", None)])
    config = CausalTracingConfig(samples=5)
    n = len(fact.prompt) - fact.subject[0]
    baseline = through(sizes, tokens=6 * n, reads=6, blocks=1, pairs=6 * sum(range(n + 1)))
    needed = traced(sizes, fact, config)
    assert needed.flops == baseline.flops + 5 * (2 * 2 * 16 * 50 + 2 * 2 * 16 * 64)


def test_statistics_need_the_blocks_below_and_the_outer_products() -> None:
    sizes = Sizes.of(CONFIGS["gpt2"])
    needed = needs.statistics(sizes, tokens=40, rows=20, layer=0)
    attention, mlp = 16 * 16 * 4, 16 * 64
    assert needed.flops == 2 * 40 * (attention + mlp) + 2 * 40 * 64 * 64


def test_a_generated_token_reads_all_weights() -> None:
    sizes = Sizes.of(CONFIGS["gpt2"])
    prompts = [(1, 2, 3), (1, 2, 4)]
    needed = needs.generating(sizes, prompts, 13, texts=2)
    weights = 4 * (3 * sizes.block_weights + 16 * 50)
    assert needed.bytes == (1 + 9) * weights + 9 * 2 * 6 * 2 * 16 * 3 * 4


def test_the_limit_is_that_of_products_or_of_memory() -> None:
    rates = Rates()
    product = Product(64, 64, 64, times=1000)
    by_products = rates.limit(Needed((product,), bytes=1.0))
    assert by_products.seconds == pytest.approx(product.flops / rates.of_product(product))
    by_memory = rates.limit(Needed((product,), bytes=1e12))
    assert by_memory.seconds == pytest.approx(1e12 / rates.bandwidth)
    assert by_memory.to_dict(2 * by_memory.seconds)["share_of_limit"] == pytest.approx(0.5)
    assert by_memory.to_dict(1.0)["bound_by"] == "memory"
    assert set(rates.to_dict()["gflops"]) == {"64x64x64"}
