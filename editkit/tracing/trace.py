"""Where a model recalls a fact: the scores of a locator, with named tokens, tables and plots.

::

    trace = editkit.trace(model, "The Space Needle is in the city of", "The Space Needle")
    trace.plot()
    trace.to_frame()
"""

from __future__ import annotations

import dataclasses
import html
from typing import TYPE_CHECKING, Any, NamedTuple

from editkit.data_types import Fact, Localization
from editkit.mistakes import expect
from editkit.reprs import notebook_html, summary

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

    from editkit.models import LanguageModel
    from editkit.tracing.plots import HeatMap

__all__ = ["Site", "Trace", "trace"]


class Site(NamedTuple):
    """A place in a model and its effect on a fact.

    Attributes:
        kind: Kind of site: ``state``, ``mlp``, ``attn``, ...
        token: Index of the prompt's token, from 0.
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
    """The result of a locator for one fact.

    Attributes:
        model: Name of the model.
        locator: Name of the locator.
        maps: Its localizations, one per kind of site.
    """

    model: str
    locator: str
    maps: tuple[Localization, ...]

    @summary
    def __repr__(self) -> str:
        kinds = ", ".join(each.kind for each in self.maps)
        return f"Trace of {self.title} on {self.model} by {self.locator}: {kinds}"

    @notebook_html
    def _repr_html_(self) -> str:
        """Its plot for notebooks."""
        import base64

        from editkit.figures import png_bytes

        image = base64.b64encode(png_bytes(self.plot())).decode()
        return (
            f'<img src="data:image/png;base64,{image}" alt="{html.escape(repr(self))}" '
            'style="max-width: 100%">'
        )

    @property
    def title(self) -> str:
        """Prompt and answer: ``"The Space Needle is in the city of" -> "Seattle"``."""
        return f'"{self.fact.prompt}" -> "{self.answer.strip()}"'

    @property
    def fact(self) -> Fact:
        """The fact as it was given, perhaps without an answer."""
        return self.maps[0].fact

    @property
    def answer(self) -> str:
        """The traced answer, as the model writes it."""
        return self.maps[0].answer or str(self.fact.answer)

    @property
    def predicted(self) -> bool:
        """Whether the model predicts the answer; true if the locator does not report it."""
        return bool(self.maps[0].baselines.get("predicted", 1.0))

    @property
    def tokens(self) -> tuple[str, ...]:
        """The prompt's tokens; a star marks those of the subject."""
        first, end = self.maps[0].subject or (0, 0)
        texts = (token.strip() or token for token in self.maps[0].tokens)
        return tuple(f"{t}*" if first <= i < end else t for i, t in enumerate(texts))

    def strongest(self, n: int = 5, kind: str | None = None) -> list[Site]:
        """The ``n`` sites with the largest effects, of one kind or of all."""
        sites = [site for site in self.sites() if kind in (None, site.kind)]
        return sorted(sites, key=lambda site: -site.effect)[:n]

    def sites(self) -> list[Site]:
        """All sites, by kind, token and layer."""
        return [
            Site(localization.kind, token, self.tokens[token], layer, effect)
            for localization in self.maps
            for token, row in enumerate(localization.scores)
            for layer, effect in enumerate(row)
        ]

    def to_frame(self) -> DataFrame:
        """All sites as a pandas table: kind, token, text, layer, effect."""
        from pandas import DataFrame

        return DataFrame(self.sites(), columns=list(Site._fields))

    def plot(self, *, shared_scale: bool = True) -> Figure:
        """Heat maps, tokens by layers, one per kind of site; notebooks display the figure.

        If the locator has a corrupted run, colours show the probability of the answer, from that of
        the corrupted run on. Otherwise they show the locator's scores.

        Args:
            shared_scale: Whether all maps have the same colour scale; else each has its own, which
                shows weak effects of one kind.
        """
        from editkit.tracing.plots import heat_maps

        return heat_maps(
            self.heat_maps(),
            self.row_labels,
            f"{self.title}, {self.locator} on {self.model}",
            self.notes,
            unit=self.unit,
            base=self.maps[0].baselines.get("corrupted", 0.0),
            shared_scale=shared_scale,
        )

    def heat_maps(self) -> list[HeatMap]:
        """The panels of its plot; values are in its ``unit``."""
        from editkit.tracing.plots import HeatMap, restored

        corrupted = self.maps[0].baselines.get("corrupted")
        panels = []
        for each in self.maps:
            title, axis = each.kind, "layer"
            if corrupted is not None:
                name, axis = restored(each.kind, each.window)
                title = f"Impact of restoring {name}\nafter corrupted input"
            values = [[(corrupted or 0.0) + effect for effect in row] for row in each.scores]
            panels.append(HeatMap(each.kind, values, title, axis, each.traced))
        return panels

    @property
    def row_labels(self) -> tuple[str, ...]:
        """Labels of its plot's rows: the tokens, shortened.

        If one other subject replaces the fact's own, a token of the subject is followed by the one
        at whose place it is restored.
        """
        from editkit.tracing.plots import shortened

        labels = [shortened(token) for token in self.tokens]
        first, end = self.maps[0].subject or (0, 0)
        if len(self.maps[0].replacements) == 1:
            for i in range(first, end):
                other = self.maps[0].counterparts[i]
                labels[i] += f" → {shortened(other)}" if other else " → none"
        return tuple(labels)

    @property
    def unit(self) -> str:
        """What colours show: the answer's probability, or the locator's score."""
        from editkit.tracing.plots import shortened

        if "corrupted" in self.maps[0].baselines:
            return f"p({shortened(self.answer.strip())})"
        return f"{self.locator} score"

    @property
    def notes(self) -> list[str]:
        """Lines below the title of its plot: the answer's probability in each run."""
        baselines = self.maps[0].baselines
        if "clean" not in baselines:
            return []
        answer = f"p({self.answer.strip()}) = {baselines['clean']:.3f}"
        if "corrupted" not in baselines:
            return [f"{answer}; * marks the subject"]
        corruption = f"{baselines['corrupted']:.3f} with a corrupted subject (*)"
        others = self.maps[0].replacements
        if others:
            name = others[0] if len(others) == 1 else f"{len(others)} other subjects"
            corruption = f"{baselines['corrupted']:.3f} with {name} in place of {self.fact.subject}"
            corruption += " (*), aligned at the last token"
        return [f"{answer} clean, {corruption}"]


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
    """Trace where a model recalls a fact. The model is left unchanged.

    Args:
        model: The model.
        prompt: A sentence up to the answer.
        subject: The subject, spelled as in the prompt.
        answer: The answer to trace; None: the model's prediction.
        locator: Name of an installed locator.
        preset: A preset of the locator.
        separator: Text between prompt and answer; None: the default rule.
        chat: Whether the prompt is a user's turn in a chat.
        config: Fields of the locator's configuration.

    Raises:
        PluginError: The locator is not installed.
        ConfigError: A value is wrong.
        RequestError: The prompt lacks the subject, or contains it twice.
        ModelError: The prompt is longer than the model's context.
    """
    from editkit.registry.factories import make_locator

    call = "trace(model, prompt, subject)"
    expect(model, "LanguageModel", "model", call)
    expect(prompt, "text", "prompt", call)
    fact = Fact(prompt, subject, answer, separator=separator, chat=chat)
    [maps] = make_locator(locator, model, preset=preset, **config).maps(model, [fact])
    return Trace(model.name, locator, maps)
