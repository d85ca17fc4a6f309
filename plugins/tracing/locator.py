"""The locator ``causal-tracing``: which sites bring a corrupted fact back (Meng et al. 2022)."""

from __future__ import annotations

from collections.abc import Sequence

from editkit import Fact, Localization, Locator
from editkit.models import LanguageModel
from editkit_plugins.tracing.config import CausalTracingConfig, Kind
from editkit_plugins.tracing.corruption import draws, noise_level, subjects_of
from editkit_plugins.tracing.engine import Finding, trace
from editkit_plugins.tracing.plain import trace_plainly
from editkit_plugins.tracing.questions import Question, questions


class CausalTracingLocator(Locator[CausalTracingConfig]):
    """Restores what the clean run had at one site of a corrupted run (section 2.1)."""

    def locate(self, model: LanguageModel, facts: Sequence[Fact]) -> list[Localization]:
        """The indirect effect of every site of the configured kind, one localization per fact.

        A score is the probability of the answer with the site restored, less that of the corrupted
        run; 0 left of the subject, where nothing is corrupted. Baselines: ``clean`` and
        ``corrupted`` probability, and ``predicted``, 1 where the model predicts the answer.

        Raises:
            RequestError: A subject stands in its prompt twice.
            ModelError: A prompt is longer than the model's context.
            ConfigError: No substitute has as many tokens as a subject.
        """
        return [found for [found] in self._traced(model, facts, (self.config.kind,))]

    def maps(self, model: LanguageModel, facts: Sequence[Fact]) -> list[tuple[Localization, ...]]:
        """The localizations of all configured kinds, in their order; errors as for ``locate``."""
        return self._traced(model, facts, self.config.kinds)

    def for_facts(self, model: LanguageModel, facts: Sequence[Fact]) -> CausalTracingLocator:
        """The locator whose noise or substitutes are set by the subjects of all of these facts."""
        config = self.config
        names = tuple(dict.fromkeys(fact.subject for fact in facts))
        if config.corruption == "substitute" and not config.substitutes:
            config = config.model_copy(update={"substitutes": names})
        if config.corruption in ("gaussian", "uniform") and config.noise_level is None:
            level = noise_level(model, config, subjects_of(config) or names)
            config = config.model_copy(update={"noise_level": level})
        return CausalTracingLocator(config)

    def _traced(
        self, model: LanguageModel, facts: Sequence[Fact], kinds: Sequence[Kind]
    ) -> list[tuple[Localization, ...]]:
        way = trace_plainly if self.config.plain else trace
        given = subjects_of(self.config)
        found = []
        for question in questions(model, facts, answer_tokens=self.config.answer_tokens):
            level = noise_level(model, self.config, given or (question.name,))
            noise = draws(model, question, self.config, level)
            finding = way(model, question, noise, self.config, kinds)
            found.append(tuple(_localization(model, question, finding, kind) for kind in kinds))
        return found


def _localization(
    model: LanguageModel, question: Question, finding: Finding, kind: Kind
) -> Localization:
    """Effects of one kind; 0 left of the subject, where restoring changes nothing."""
    effects = finding.restored[kind].double() - finding.corrupted
    effects[: question.subject[0]] = 0.0
    baselines = {
        "clean": finding.clean,
        "corrupted": finding.corrupted,
        "predicted": float(question.predicted),
    }
    return Localization(
        fact=question.fact,
        tokens=question.tokens,
        kind=kind,
        scores=tuple(tuple(row) for row in effects.tolist()),
        baselines=baselines,
        subject=question.subject,
        answer=model.tokenizer.decode(question.answer),
    )
