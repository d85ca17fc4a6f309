"""Sample the packaged corpus ``first-look`` from a language model.

    python -m editkit_benchmarks.corpora.sample --model smollm2 --limit 1064 --out first-look.txt

Every text continues an opening about a topic, so that together they are ordinary English on many
subjects. They are made up: as facts they are worthless, and as inputs of a second moment they do.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import torch

from editkit import LanguageModel, load_model

TOPICS = (
    "the violin", "bridges", "the Baltic Sea", "bread", "volcanoes", "chess", "the printing press",
    "bees", "the Roman army", "opera", "rice farming", "glass", "the heart", "steam engines",
    "mountain railways", "democracy", "tea", "lighthouses", "whales", "the stock market",
    "Arabic script", "ice hockey", "the Amazon", "clocks", "vaccines", "silk", "castles", "jazz",
    "the moon", "sailing ships", "coffee", "penguins", "the alphabet", "coral reefs", "football",
    "aluminium", "the French Revolution", "wolves", "public libraries", "cheese", "earthquakes",
    "the piano", "paper", "desert animals", "universities", "cinema", "antibiotics", "salt",
    "the Himalayas", "bicycles", "poetry", "nuclear power", "elephants", "the Silk Road", "sleep",
    "tennis", "architecture", "rainforests", "the telephone", "money", "maps", "the Vikings",
    "photography", "wheat", "submarines", "the harvest", "radio", "glaciers", "cotton",
    "the Ottoman Empire", "weather forecasts", "horses", "operating systems", "philosophy",
    "the Danube", "dinosaurs", "courts of law", "gardens", "the Olympic Games", "steel",
    "human rights", "bats", "the guitar", "canals", "nutrition", "ancient Egypt", "satellites",
    "painting", "the eye", "cricket", "airports", "trade unions", "mathematics", "forests",
    "the Renaissance", "electric cars", "languages of Africa", "fishing", "novels", "the brain",
    "taxes", "sculpture", "islands", "cooking oil", "journalism", "parliaments", "ballet",
    "fossils", "rubber", "the Cold War", "marathons", "owls", "concrete", "the Great Lakes",
    "surgery", "video games", "kings and queens", "spices", "telescopes", "wine", "the theatre",
    "insurance", "snakes", "city planning", "the calendar", "chocolate", "engineers", "migration",
    "the orchestra", "rockets", "folk tales", "gold", "dentists", "the Mediterranean", "swimming",
    "computers", "festivals", "mining", "butterflies", "the constitution", "soap", "nurses",
    "trains in Japan", "wool", "astronomy", "the potato", "detectives", "rivers of Asia", "lasers",
)  # fmt: skip
OPENINGS = (
    "A short introduction to {}.",
    "What most people do not know about {} is that",
    "In the nineteenth century, {}",
    "My grandmother used to tell stories about {}. One of them",
    "Researchers who study {} have recently",
    "The museum's new exhibition on {} opened on Monday. It",
    "Question: why do so many people care about {}? Answer:",
    "The economy of the region depends on {}, and",
)


def openings() -> list[str]:
    """All openings, those of one topic far apart."""
    return [opening.format(topic) for opening, topic in itertools.product(OPENINGS, TOPICS)]


def sample(
    model: LanguageModel, prompts: list[str], *, tokens: int, batch: int, seed: int
) -> Iterator[str]:
    """A text per prompt: the prompt and sampled tokens up to the end of a sentence.

    Args:
        model: The model.
        prompts: Openings, which the texts include.
        tokens: Tokens to sample for each.
        batch: Prompts per batch; texts depend on it.
        seed: Of torch.
    """
    tokenizer = model.tokenizer
    torch.manual_seed(seed)
    for start in range(0, len(prompts), batch):
        rows = prompts[start : start + batch]
        inputs = tokenizer(rows, return_tensors="pt", padding=True, padding_side="left")
        written = model.hf.generate(
            **inputs.to(model.device),
            do_sample=True,
            temperature=1.0,
            top_k=100,
            max_new_tokens=tokens,
            pad_token_id=tokenizer.pad_token_id or tokenizer.eos_token_id,
        )
        for text in tokenizer.batch_decode(written, skip_special_tokens=True):
            yield _whole_sentences(" ".join(text.split()))


def _whole_sentences(text: str) -> str:
    end = max(text.rfind(mark) for mark in (". ", "! ", "? "))
    return text[: end + 1] if end > 0 else text


def main() -> int:
    """Write the corpus, one text per line."""
    parser = argparse.ArgumentParser(prog="editkit_benchmarks.corpora.sample", description=__doc__)
    parser.add_argument("--model", default="smollm2", help="model that writes (smollm2)")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--tokens", type=int, default=100, help="tokens per text (100)")
    parser.add_argument("--batch", type=int, default=76, help="texts per batch (76)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (0)")
    parser.add_argument("--limit", type=int, help="only the first texts")
    args = parser.parse_args()
    model = load_model(args.model)
    prompts = openings()[: args.limit]
    texts = sample(model, prompts, tokens=args.tokens, batch=args.batch, seed=args.seed)
    with args.out.open("w", encoding="utf-8") as stream:
        for number, text in enumerate(texts, start=1):
            stream.write(text + "\n")
            stream.flush()
            if number % args.batch == 0 or number == len(prompts):
                sys.stderr.write(f"{number} of {len(prompts)} texts\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
