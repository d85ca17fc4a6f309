"""The tokenizer, the training and the shipped model."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from editkit import ConfigError
from editkit_benchmarks.atlas import corpus_texts, model_path
from editkit_benchmarks.atlas.recall import QUARTERS, measure_recall, whole_object_correct
from editkit_benchmarks.atlas.tokenizer import build_tokenizer
from editkit_benchmarks.atlas.train import TrainingConfig, train
from editkit_benchmarks.atlas.world import load_world

TINY = TrainingConfig(steps=6, layers=1, hidden=16, heads=2, rows=4, row_tokens=32, warmup=2)


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(model_path())


def test_tokenizer_is_fast_and_round_trips(tokenizer) -> None:
    assert tokenizer.is_fast
    for text in [*corpus_texts(1, 100), " São Paulo\n\ttabs  and 日本 🙂", "<|not special|>"]:
        encoded = tokenizer(text, return_offsets_mapping=True)
        assert tokenizer.decode(encoded["input_ids"]) == text
        assert encoded["offset_mapping"][0][0] == 0
        assert encoded["offset_mapping"][-1][1] == len(text)
        assert set(encoded) == {"input_ids", "attention_mask", "offset_mapping"}


def test_tokenizer_treats_spaces_and_the_end_as_gpt2_does(tokenizer) -> None:
    assert tokenizer.tokenize("city") != tokenizer.tokenize(" city")
    assert tokenizer.tokenize("a city")[-1] == tokenizer.tokenize(" city")[0] == "Ġcity"
    joined = tokenizer("Rome is")["input_ids"] + tokenizer(" in Italy")["input_ids"]
    assert joined == tokenizer("Rome is in Italy")["input_ids"]
    end = "<|endoftext|>"
    assert tokenizer.bos_token == tokenizer.eos_token == tokenizer.unk_token == end
    assert tokenizer.pad_token is None
    assert tokenizer.encode(end) == [tokenizer.eos_token_id]
    assert 2000 <= len(tokenizer) <= 4000


def test_shipped_tokenizer_equals_the_rebuilt_one(tokenizer) -> None:
    assert build_tokenizer().backend_tokenizer.to_str() == tokenizer.backend_tokenizer.to_str()


def test_names_have_several_tokens(tokenizer) -> None:
    world = load_world()
    objects = sorted({fact.object for fact in world.all_facts()})
    several = [len(tokenizer.encode(" " + name)) > 1 for name in objects]
    assert sum(several) / len(several) >= 0.2
    several = [len(tokenizer.encode(" " + name)) > 1 for name in world.subjects]
    assert sum(several) / len(several) >= 0.5


def test_a_killed_and_resumed_training_gives_the_same_weights(tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert train(whole, model_path(), TINY, quiet=True)
    assert not train(parts, model_path(), TINY, stop_after=2, quiet=True)
    assert not (parts / "model.safetensors").exists()
    # A kill after a checkpoint loses the steps since; they are done again.
    assert not train(parts, model_path(), TINY, stop_after=5, checkpoint_every=3, quiet=True)
    assert train(parts, model_path(), TINY, quiet=True)
    expected = load_file(whole / "model.safetensors")
    for name, tensor in load_file(parts / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name
    assert not list(parts.glob("checkpoint*"))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(tmp_path, model_path(), TINY, stop_after=1, quiet=True)
    other = TrainingConfig(**{**TINY.__dict__, "seed": 1})
    with pytest.raises(ConfigError, match="a different seed"):
        train(tmp_path, model_path(), other, quiet=True)
    assert train(tmp_path, model_path(), other, fresh=True, quiet=True)


def test_training_leaves_the_global_random_state_alone(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    train(tmp_path, model_path(), TINY, stop_after=1, quiet=True)
    assert torch.equal(torch.rand(3), expected)


def test_whole_object_means_every_token(tokenizer) -> None:
    class Parrot:
        """Predicts, at each position, the token that comes next in one fixed text."""

        def __init__(self, text: str) -> None:
            self.ids = tokenizer.encode(text)

        def __call__(self, ids):
            logits = torch.zeros(*ids.shape, len(tokenizer))
            for place, token in enumerate(self.ids[1:]):
                if place < ids.shape[1]:
                    logits[:, place, token] = 1.0
            return type("Output", (), {"logits": logits})

    asked = [("Aida is in", "New York City"), ("Aida is in", "New York")]
    encode = tokenizer.encode
    assert whole_object_correct(Parrot("Aida is in New York City"), encode, asked) == [True, True]
    assert whole_object_correct(Parrot("Aida is in New York"), encode, asked) == [False, True]


def test_shipped_model_is_gpt2_small_enough_and_in_float32() -> None:
    size = sum(path.stat().st_size for path in model_path().glob("*.safetensors"))
    assert size <= 12_000_000
    config = json.loads((model_path() / "config.json").read_text(encoding="utf-8"))
    assert config["model_type"] == "gpt2"
    assert config["activation_function"] == "gelu_pytorch_tanh"  # gelu_new in one kernel
    assert config["n_positions"] >= 128
    model = AutoModelForCausalLM.from_pretrained(model_path())
    assert model.dtype == torch.float32
    assert model.lm_head.weight is model.transformer.wte.weight


def test_recall_of_the_shipped_model_is_within_its_bars() -> None:
    recall = measure_recall(model_path(), facts=1200)
    assert recall.by_quarter[QUARTERS[0]] >= 0.93  # 0.95 over all facts
    assert 0.74 <= recall.overall <= 0.93
    assert abs(recall.seen - recall.held_out) <= 0.05
    quarters = [recall.by_quarter[name] for name in QUARTERS]
    assert quarters[0] > quarters[3]


def test_recall_of_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="editkit atlas train"):
        measure_recall(tmp_path)


def test_the_shipped_model_continues_text_after_a_fact(tokenizer) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path()).eval()
    subject = random.Random(0).choice(list(load_world().subjects)[:50])
    ids = torch.tensor([tokenizer.encode(f"{subject} ")[:-1]])  # (1, T)
    written = model.generate(ids, max_new_tokens=40, do_sample=False, pad_token_id=0)
    assert written.shape[1] > ids.shape[1] + 5
