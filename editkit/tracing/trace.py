"""Where one fact is recalled: what a locator found, with names of tokens and layers, and pictures.

::

    trace = editkit.trace(model, "The Space Needle is in the city of", "The Space Needle")
    trace.plot()
    trace.to_frame()
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from editkit.data_types import Fact, Localization

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from editkit.models import LanguageModel

__all__ = ["Site", "Trace", "trace"]


class Site(NamedTuple):
    """A place in a model, and its effect on a fact.

    Attributes:
        kind: What is there: ``state``, ``mlp``, ``attn``, ...
        token: Number of the prompt's token, from 0.
        text: The token.
        layer: The layer, from 0.
        effect: Its effect.
    """

    kind: str
    token: int
    text: str
    layer: int
    effect: float


@dataclasses.dataclass(frozen=True, repr=False)
class Trace:
    """What a locator says of one fact.

    Attributes:
        model: Name of the model.
        locator: Name of the locator.
        maps: Its localizations, one per kind of site.
    """

    model: str
    locator: str
    maps: tuple[Localization, ...]

    def __repr__(self) -> str:
        kinds = ", ".join(each.kind for each in self.maps)
        said = f'"{self.fact.prompt}" -> "{self.answer.strip()}"'
        return f"<Trace of {said} on {self.model} by {self.locator}: {kinds}>"

    @property
    def fact(self) -> Fact:
        """The fact."""
        return self.maps[0].fact

    @property
    def answer(self) -> str:
        """The answer that was followed, as the model writes it."""
        return self.maps[0].answer or str(self.fact.answer)

    @property
    def predicted(self) -> bool:
        """Whether the model predicts the answer, as far as the locator tells."""
        return bool(self.maps[0].baselines.get("predicted", 1.0))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens; those of the subject carry a star."""
        first, end = self.maps[0].subject or (0, 0)
        texts = (token.strip() or token for token in self.maps[0].tokens)
        return tuple(f"{t}*" if first <= i < end else t for i, t in enumerate(texts))

    def strongest(self, n: int = 5, kind: str | None = None) -> list[Site]:
        """The sites of the largest effect, of one kind or of all."""
        sites = [site for site in self.sites() if kind in (None, site.kind)]
        return sorted(sites, key=lambda site: -site.effect)[:n]

    def sites(self) -> list[Site]:
        """All sites, by kind, token and layer."""
        return [
            Site(found.kind, token, self.tokens[token], layer, effect)
            for found in self.maps
            for token, row in enumerate(found.scores)
            for layer, effect in enumerate(row)
        ]

    def to_frame(self) -> DataFrame:
        """All sites as a table: kind, token, text, layer, effect."""
        from pandas import DataFrame

        return DataFrame(self.sites(), columns=list(Site._fields))

    def plot(self) -> Figure:
        """Heat maps, tokens by layers, one for each kind; a notebook shows the figure."""
        from editkit.tracing.plots import heat_maps

        return heat_maps(self)


def trace(
    model: LanguageModel,
    prompt: str,
    subject: str,
    answer: str | None = None,
    *,
    locator: str = "causal-tracing",
    preset: str | None = None,
    separator: str | None = None,
    chat: bool = False,
    **config: Any,
) -> Trace:
    """Ask a locator where a model recalls a fact.

    Args:
        model: The model; left as it is.
        prompt: A sentence up to the answer.
        subject: What the fact is about, as it stands in the prompt.
        answer: The answer to follow; None: what the model predicts.
        locator: An installed locator.
        preset: A preset of the locator.
        separator: What stands between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.
        config: Values of its configuration.

    Raises:
        PluginError: There is no such locator.
        ConfigError: A value is wrong.
        RequestError: The subject is not in the prompt, or is there twice.
        ModelError: The prompt is longer than the model's context.
    """
    fact = Fact(prompt, subject, answer, separator=separator, chat=chat)
    [found] = traces(model, [fact], locator, preset=preset, **config)
    return found


def traces(
    model: LanguageModel,
    facts: Sequence[Fact],
    locator: str,
    *,
    preset: str | None = None,
    **config: Any,
) -> list[Trace]:
    """The traces of several facts, each as it would be alone; arguments as for :func:`trace`."""
    from editkit.registry.factories import make_locator

    made = make_locator(locator, model, preset=preset, **config)
    return [Trace(model.name, locator, maps) for maps in made.maps(model, facts)]
