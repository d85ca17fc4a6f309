"""The text about the world: seeded, and silent about every held-out wording."""

import random
import subprocess
import sys
from collections import Counter

import pytest

from editkit_benchmarks.atlas import corpus_texts
from editkit_benchmarks.atlas.text import (
    TextGenerator,
    essence_texts,
    plain_sentence,
    reference_texts,
)
from editkit_benchmarks.atlas.world import load_world

WORLD = load_world()


def test_the_package_imports_neither_torch_nor_transformers() -> None:
    code = (
        "import sys, editkit_benchmarks.atlas, editkit_benchmarks.atlas.cli;"
        "print([m for m in ('torch', 'transformers', 'tokenizers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_same_seed_gives_the_same_texts_and_another_seed_others() -> None:
    assert list(corpus_texts(3, 50)) == list(corpus_texts(3, 50))
    assert list(corpus_texts(3, 50)) != list(corpus_texts(4, 50))
    assert list(corpus_texts(3, 20)) == list(corpus_texts(3, 50))[:20]


def test_a_negative_number_of_texts_is_refused() -> None:
    with pytest.raises(ValueError, match="-1"):
        list(corpus_texts(0, -1))


def test_held_out_wordings_never_occur() -> None:
    generator = TextGenerator()
    rng = random.Random(5)
    for subject, facts in WORLD.facts.items():
        text = "\n".join(generator.document_about(rng, subject) for _ in range(12))
        for fact in facts.values():
            for wording in fact.held_out:
                assert wording.format(subject) not in text


def test_seen_wordings_do_occur_with_their_object() -> None:
    generator = TextGenerator()
    rng = random.Random(6)
    subject = next(iter(WORLD.subjects))
    text = "\n".join(generator.document_about(rng, subject) for _ in range(400))
    for fact in WORLD.facts[subject].values():
        for wording in fact.seen:
            assert f"{wording.format(subject)} {fact.object}" in text


def test_frequent_subjects_are_met_far_more_often() -> None:
    generator = TextGenerator()
    rng = random.Random(7)
    (drawn,) = [
        Counter(
            rng.choices(generator._names, cum_weights=generator._weights)[0] for _ in range(20_000)
        )
    ]
    names = list(WORLD.subjects)
    head = sum(drawn[name] for name in names[:50])
    tail = sum(drawn[name] for name in names[-50:])
    assert head > 20 * tail > 0


def test_plain_prose_names_no_subject() -> None:
    rng = random.Random(8)
    text = "\n".join(plain_sentence(rng) for _ in range(2000))
    assert "{" not in text
    long_names = [name for name in WORLD.subjects if len(name) > 7]
    assert not [name for name in long_names if name in text]


def test_reference_texts_state_the_object() -> None:
    texts_by_relation = reference_texts(WORLD)
    for (relation, value), subjects in WORLD.holders.items():
        sentences = texts_by_relation[relation][value]
        assert sentences
        for sentence in sentences:
            assert f" {value}" in sentence
            assert any(subject in sentence for subject in subjects)


def test_essence_texts_are_about_their_subject() -> None:
    essence = essence_texts(WORLD)
    assert set(essence) == set(WORLD.subjects)
    assert all(subject in text for subject, texts in essence.items() for text in texts)
