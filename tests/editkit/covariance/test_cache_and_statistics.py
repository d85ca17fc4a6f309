from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from editkit import CacheError, ConfigError, Dense, WeightDelta, applied
from editkit.covariance.corpora import Corpus, Order
from editkit.covariance.second_moment import compute_second_moment, read_published, second_moment
from editkit.editing.generation import sample, sampled_contexts
from editkit.models.running import recording
from editkit.storage.cache import cached_tensors, cached_texts, write_atomically
from editkit.storage.digests import digest_of_tensors, key_of
from tests.tiny import SENTENCES, tiny


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.suffix in (".safetensors", ".json")]


def test_tensors_are_computed_once_and_again_if_damaged(cache: Path) -> None:
    made = []

    def make():
        made.append(1)
        return {"a": torch.arange(3.0)}

    for _ in range(2):
        assert torch.equal(cached_tensors("k", {"x": 1}, make)["a"], torch.arange(3.0))
    assert len(made) == 1
    cached_tensors("k", {"x": 2}, make)
    assert len(made) == 2
    for path in files(cache):
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)
    assert torch.equal(cached_tensors("k", {"x": 1}, make)["a"], torch.arange(3.0))
    assert len(made) == 3
    (path,) = {p for p in files(cache) if p.read_bytes()[-1] == 64}
    path.write_bytes(path.read_bytes()[:40])
    cached_tensors("k", {"x": 1}, make)
    assert len(made) == 4


def test_texts_are_computed_once_and_again_if_damaged(cache: Path) -> None:
    made = []

    def make():
        made.append(1)
        return ["a", "é{}"]

    for _ in range(2):
        assert cached_texts("k", {"x": 1}, make) == ["a", "é{}"]
    assert len(made) == 1
    (path,) = files(cache)
    path.write_text(path.read_text().replace('"a"', '"b"'))
    assert cached_texts("k", {"x": 1}, make) == ["a", "é{}"]
    assert len(made) == 2


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_an_entry_with_another_description_is_not_used(
    cache: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    def get(x: int) -> object:
        if suffix == "json":
            return cached_texts("k", {"model": f"m{x}"}, lambda: [str(x)])
        made = cached_tensors("k", {"model": f"m{x}"}, lambda: {"a": torch.tensor(x)})
        return int(made["a"])

    first, second = get(1), get(2)
    names = [cache / "k" / f"{key_of({'model': f'm{x}'})}.{suffix}" for x in (1, 2)]
    names[1].write_bytes(names[0].read_bytes())
    assert not caplog.records
    assert (get(1), get(2)) == (first, second)
    [record] = caplog.records
    assert "belongs to something else (model is 'm1', expected 'm2')" in record.message
    assert get(2) == second
    assert len(caplog.records) == 1


@pytest.mark.parametrize("suffix", ["safetensors", "json"])
def test_an_entry_without_a_description_is_not_used(
    cache: Path, suffix: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = cache / "k" / f"{key_of({'x': 1})}.{suffix}"
    path.parent.mkdir(parents=True)
    if suffix == "json":
        content = {"texts": ["old"], "digest": key_of({"texts": ["old"]})}
        path.write_text(json.dumps(content), encoding="utf-8")
        assert cached_texts("k", {"x": 1}, lambda: ["new"]) == ["new"]
    else:
        old = {"a": torch.tensor(1)}
        save_file(old, path, metadata={"digest": digest_of_tensors(old)})
        made = cached_tensors("k", {"x": 1}, lambda: {"a": torch.tensor(2)})
        assert int(made["a"]) == 2
    assert len(caplog.records) == 1


def test_a_failed_write_keeps_the_old_file_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    path = tmp_path / "f"
    write_atomically(path, b"old")
    with pytest.raises(TypeError):
        write_atomically(path, "no bytes")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def plain_second_moment(model, path: str, texts: list[str]) -> tuple[torch.Tensor, int]:
    keys = []
    for text in texts:
        with torch.no_grad(), recording(model, [path]) as seen:
            model.hf(input_ids=torch.tensor([model.encode([text])[0].ids]))
        keys.append(seen[path].inputs.reshape(-1, seen[path].inputs.shape[-1]))
    whole = torch.cat(keys).double()
    return whole.T @ whole / len(whole), len(whole)


@pytest.mark.parametrize("name", ["gpt2", "opt", "llama"])
def test_second_moment_equals_its_definition(name: str) -> None:
    model = tiny(name)
    path = model.path(2, "mlp_out")
    texts = SENTENCES * 7
    moment = compute_second_moment(model, path, texts)
    matrix, count = plain_second_moment(model, path, texts)
    assert moment.count == count
    torch.testing.assert_close(moment.matrix.double(), matrix, rtol=1e-4, atol=1e-6)


def test_the_token_budget_holds_and_an_empty_corpus_is_an_error() -> None:
    model = tiny()
    path = model.path(0, "mlp_out")
    assert compute_second_moment(model, path, SENTENCES * 9, tokens=23).count == 23
    with pytest.raises(CacheError, match="no text"):
        compute_second_moment(model, path, [])


def test_the_cache_key_includes_model_corpus_and_budget(cache: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "c.txt"
    corpus.write_text("\n".join(SENTENCES), encoding="utf-8")
    model, path = tiny(), tiny().path(1, "mlp_out")
    first = second_moment(model, path, Corpus(str(corpus)))
    assert torch.equal(second_moment(model, path, Corpus(str(corpus))).matrix, first.matrix)
    assert len(files(cache)) == 1
    second_moment(tiny(seed=1), path, Corpus(str(corpus)))
    second_moment(model, path, Corpus(str(corpus)), tokens=9)
    second_moment(model, model.path(2, "mlp_out"), Corpus(str(corpus)))
    corpus.write_text("\n".join(SENTENCES[:2]), encoding="utf-8")
    second_moment(model, path, Corpus(str(corpus)))
    assert len(files(cache)) == 5


def test_published_statistics_are_read(tmp_path: Path) -> None:
    total = np.diag([2.0, 4.0])
    np.savez(tmp_path / "s.npz", **{"mom2.mom2": total, "mom2.count": 4, "mom2.constructor": "x"})
    moment = read_published(tmp_path / "s.npz")
    assert moment.count == 4
    assert moment.matrix.tolist() == [[0.5, 0.0], [0.0, 1.0]]
    for content in (b"junk", b""):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(CacheError, match="bad.npz"):
            read_published(tmp_path / "bad.npz")
    np.savez(tmp_path / "t.npz", other=1)
    with pytest.raises(CacheError, match="mom2"):
        read_published(tmp_path / "t.npz")


@pytest.mark.parametrize(
    ("count", "matrix"),
    [(5, np.full((3, 3), np.nan)), (5, np.full((3, 3), 1e300)), (np.array([1, 2]), np.eye(3))],
)
def test_invalid_published_statistics_are_refused(
    tmp_path: Path, count: object, matrix: object
) -> None:
    np.savez(tmp_path / "a.npz", **{"mom2.count": count, "mom2.mom2": matrix})
    with pytest.raises(CacheError, match="a.npz (is not|has)"):
        read_published(tmp_path / "a.npz")


def test_corpora_of_every_kind(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\n two \n", encoding="utf-8")
    (tmp_path / "b.jsonl").write_text('{"text": "é"}\n', encoding="utf-8")
    with gzip.open(tmp_path / "c.txt.gz", "wt", encoding="utf-8") as stream:
        stream.write("x\ny\n")
    assert list(Corpus(str(tmp_path / "a.txt")).texts()) == ["one", " two "]
    assert list(Corpus(str(tmp_path / "b.jsonl")).texts()) == ["é"]
    assert list(Corpus(str(tmp_path / "c.txt.gz")).texts()) == ["x", "y"]
    assert Corpus(str(tmp_path / "a.txt")).digest() != Corpus(str(tmp_path / "b.jsonl")).digest()
    (tmp_path / "d.jsonl").write_text(json.dumps([1]), encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1"):
        list(Corpus(str(tmp_path / "d.jsonl")).texts())
    with pytest.raises(ConfigError, match="there is no package"):
        list(Corpus("nowhere.pkg:file.txt").texts())


FUNCTIONS = """
import itertools
counter = itertools.count()
def counting(): return [f"The number is {next(counter)}."]
def good(): return ["one", "", "two"]
def broken(): return ["one\\ntwo"]
def split(): return ["one", "two"]
def raising():
    yield "one"
    raise RuntimeError("boom")
def leaving(): raise SystemExit(3)
def number(): return 5
def numbers(): return [1, 2]
def asking(what): return [what]
def halved(): return ["a\\ud800"]
"""


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"corpus_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(FUNCTIONS, encoding="utf-8")
    (tmp_path / f"{name}_sick.py").write_text("raise ValueError('at import')", encoding="utf-8")
    (tmp_path / f"{name}_poor.py").write_text("import not_there_at_all", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (":raising", "failed: RuntimeError: boom"),
        (":leaving", "failed: SystemExit: 3"),
        (":number", "failed: TypeError: 'int' object is not iterable"),
        (":numbers", "failed: TypeError: it yields 1, expected texts"),
        (":asking", "failed: TypeError: asking() missing 1"),
        (":halved", "failed: UnicodeEncodeError"),
        (":absent", "is a module, not a package"),
        ("_sick:good", "failed: ValueError: at import"),
        ("_poor:good", "failed: ModuleNotFoundError: No module named 'not_there_at_all'"),
    ],
)
def test_a_function_that_yields_other_things_than_texts_is_an_error(
    functions: str, function: str, message: str
) -> None:
    corpus = Corpus(f"{functions}{function}")
    for use in (corpus.digest, lambda: list(corpus.texts())):
        with pytest.raises(ConfigError, match=re.escape(message)):
            use()


def test_the_ends_of_a_functions_texts_are_part_of_the_digest(functions: str) -> None:
    assert list(Corpus(f"{functions}:good").texts()) == ["one", "two"]
    assert Corpus(f"{functions}:broken").digest() != Corpus(f"{functions}:split").digest()


@pytest.mark.parametrize("order", ["stored", "random"])
@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt.gz", b"no gzip", "cannot be read"),
        ("b.txt.gz", gzip.compress(b"one\n" * 999)[:-9], "cannot be read"),
        ("c.jsonl", b'{"text": 5}', "line 1 of"),
        ("d.jsonl", b'{"text": "\\ud800"}', "line 1 of"),
        ("e.jsonl", b"[" * 100_000, "line 1 of"),
        ("f.txt", b"\xe9", "is not UTF-8"),
    ],
    ids=["no-gzip", "cut-gzip", "number", "surrogate", "deep", "latin-1"],
)
def test_a_damaged_corpus_is_an_error(
    tmp_path: Path, name: str, content: bytes, message: str, order: Order
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        list(Corpus(str(tmp_path / name), order=order).texts())


def test_a_statistic_is_not_cached_if_its_texts_change_meanwhile(
    cache: Path, functions: str
) -> None:
    model = tiny()
    with pytest.raises(CacheError, match="changed while a statistic was computed"):
        second_moment(model, model.path(1, "mlp_out"), Corpus(f"{functions}:counting"))
    assert not list(cache.rglob("*.safetensors"))


def test_samples_are_seeded_and_from_the_top_k() -> None:
    model = tiny()

    def draw(seed: int, top_k: int = 5) -> list[list[int]]:
        g = torch.Generator().manual_seed(seed)
        return sample(model, [0], n=4, new_tokens=6, top_k=top_k, generator=g)

    state = torch.get_rng_state()
    assert draw(0) == draw(0) != draw(1)
    assert torch.equal(torch.get_rng_state(), state)
    greedy = draw(0, top_k=1)
    with torch.no_grad():
        ids = [0]
        for _ in range(6):
            ids.append(int(model.hf(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert greedy == [ids[1:]] * 4
    for row in draw(2):
        for end in range(len(row)):
            with torch.no_grad():
                logits = model.hf(input_ids=torch.tensor([[0, *row[:end]]])).logits[0, -1]
            assert row[end] in logits.topk(5).indices.tolist()


def test_statistics_of_an_edited_model_are_not_those_of_the_model(
    cache: Path, tmp_path: Path
) -> None:
    """Computed inside applied() or after a change in memory: neither read nor kept as its own.

    Contexts are sampled from the base model, also inside applied().
    """
    corpus = Corpus(str(tmp_path / "c.txt"))
    Path(corpus.source).write_text("\n".join(SENTENCES), encoding="utf-8")
    model = tiny()
    path, below = model.path(2, "mlp_out"), f"{model.path(1, 'mlp_out')}.weight"
    shape = model.hf.get_parameter(below).shape
    values = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    delta = WeightDelta({below: Dense(values)}, None, "x", {}, model.fingerprint)
    true = compute_second_moment(model, path, corpus.texts()).matrix
    with applied(model, delta):
        edited = second_moment(model, path, corpus).matrix
        contexts = sampled_contexts(model, ((2, 4),), top_k=5, seed=0)
    assert not torch.equal(edited, true)
    assert torch.equal(second_moment(model, path, corpus).matrix, true)
    assert sampled_contexts(model, ((2, 4),), top_k=5, seed=0) == contexts
    for file in (cache / "contexts").iterdir():
        file.unlink()
    assert sampled_contexts(model, ((2, 4),), top_k=5, seed=0) == contexts
    with applied(model, delta):
        assert torch.equal(second_moment(model, path, corpus).matrix, edited)
    model.hf.get_parameter(below).data.add_(values)
    assert sampled_contexts(model, ((2, 4),), top_k=5, seed=0) != contexts
    assert not torch.equal(second_moment(model, path, corpus).matrix, true)
    model.hf.get_parameter(below).data.copy_(tiny().hf.get_parameter(below))
    assert torch.equal(second_moment(model, path, corpus).matrix, true)


def test_a_statistic_is_not_cached_if_the_weights_change_meanwhile(
    cache: Path, tmp_path: Path
) -> None:
    corpus = Corpus(str(tmp_path / "c.txt"))
    Path(corpus.source).write_text("\n".join(SENTENCES), encoding="utf-8")
    model = tiny()
    path = model.path(2, "mlp_out")

    def meddle(count: int) -> None:
        model.hf.get_parameter(f"{model.path(0, 'mlp_out')}.weight").data.mul_(1.5)

    with pytest.raises(CacheError, match="changed while"):
        second_moment(model, path, corpus, progress=meddle)
    assert not files(cache)
