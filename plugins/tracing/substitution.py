"""Other subjects in the place of a fact's own: the corruption ``substitute``.

Figures 1 and 3h, i of the first version of Meng et al. (2022), and the figures of their talk,
corrupt a prompt by another subject. Subjects may differ in their number of tokens. The clean and
the corrupted run are then aligned from the right: the tokens after the subject correspond one by
one, and so do the subjects' last tokens, their last but one, and so on:

    clean run        Me  gan  Rap  inoe   plays  the  sport  of
                           |    |    |      |     |     |    |
    corrupted run         Sha   qu  ille  plays  the  sport  of

The first tokens of a longer subject have no counterpart in the corrupted run. Nothing can be
restored for them, so they are not traced. The first tokens of a longer substitute stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from editkit import ConfigError
from editkit.models import LanguageModel
from editkit_plugins.tracing.config import CausalTracingConfig
from editkit_plugins.tracing.tokenized_facts import TokenizedFact


@dataclasses.dataclass(frozen=True)
class Substitute:
    """A fact's prompt with another subject.

    Attributes:
        name: The other subject.
        subject: Its token ids in the prompt.
        prompt: The prompt in tokens; the answer is still the fact's own.
    """

    name: str
    subject: tuple[int, ...]
    prompt: TokenizedFact


def choose_substitutes(
    model: LanguageModel, fact: TokenizedFact, config: CausalTracingConfig
) -> list[Substitute]:
    """At most ``samples`` of the configured substitutes, in an order that the seed chooses.

    A substitute is left out if its prompt has other tokens around the subject, or the subject's
    own tokens; with ``substitute_length: same``, also if it has another number of tokens.

    Raises:
        ConfigError: None is left.
    """
    first, end = fact.subject
    own = fact.prompt[first:end]
    before, after = fact.fact.prompt.split(fact.fact.subject, 1)
    others: dict[tuple[int, ...], Substitute] = {}
    for name in dict.fromkeys(config.substitutes):
        [encoding] = model.read([before + name + after], chat=fact.fact.chat)
        n_tokens = len(encoding.ids) - len(fact.prompt) + len(own)
        inside = encoding.ids[first : first + n_tokens]
        usable = (
            n_tokens > 0
            and (n_tokens == len(own) or config.substitute_length == "any")
            and encoding.ids[:first] == fact.prompt[:first]
            and encoding.ids[first + n_tokens :] == fact.prompt[end:]
        )
        if usable and inside != own:
            prompt = dataclasses.replace(
                fact,
                prompt=encoding.ids,
                tokens=encoding.texts,
                subject=(first, first + n_tokens),
            )
            others.setdefault(inside, Substitute(name, inside, prompt))
    if not others:
        raise _none_left(fact, config)
    usable_ones = list(others.values())
    chosen = np.random.RandomState(config.seed).permutation(len(usable_ones))[: config.samples]
    return [usable_ones[i] for i in chosen]


def counterparts(fact: TokenizedFact, substitutes: Sequence[Substitute]) -> tuple[str, ...]:
    """For each of the fact's tokens, those at whose place it is restored, as text.

    Substitutes with different tokens there are separated by `` / ``; a token without a counterpart
    in any of them has an empty text.
    """
    first, end = fact.subject
    texts: list[dict[str, None]] = [{} for _ in fact.prompt]
    for substitute in substitutes:
        shift = len(substitute.subject) - (end - first)
        for token, names in enumerate(texts):
            place = token if token < first else token + shift
            if token < first or place >= first:
                names[substitute.prompt.tokens[place].strip() or " "] = None
    return tuple(" / ".join(names) for names in texts)


def _none_left(fact: TokenizedFact, config: CausalTracingConfig) -> ConfigError:
    first, end = fact.subject
    n, subject = len(config.substitutes), fact.fact.subject
    if config.substitute_length == "any":
        return ConfigError(
            f"none of {n} substitutes can replace the subject {subject!r} in its prompt: they have "
            "its own tokens, or change the tokens around it.",
            hint="Name other subjects, spelled as in a sentence: --set substitutes='[Big Ben]'.",
        )
    return ConfigError(
        f"none of {n} substitutes has as many tokens as the subject {subject!r} ({end - first}) in "
        "its prompt.",
        hint="List more substitutes: --set substitutes='[Big Ben, Eiffel Tower, ...]', or accept "
        "those of other lengths: --set substitute_length=any.",
    )
