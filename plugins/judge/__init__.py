"""Judges of what models write, and the metric that asks one (``docs/metrics.md``)."""

from __future__ import annotations

from editkit import JudgeSpec, MetricSpec, Score, hookimpl

_CONFIGS = "editkit_plugins.judge.config"


@hookimpl
def editkit_judges() -> list[JudgeSpec]:
    """Register ``exact``, ``contained`` and ``openai``."""
    return [
        JudgeSpec(
            name="exact",
            factory="editkit_plugins.judge.rules:ExactJudge",
            config=f"{_CONFIGS}:RuleConfig",
            summary="is the text one of the answers, but for case, punctuation and articles?",
            protocol="exact/v1",
        ),
        JudgeSpec(
            name="contained",
            factory="editkit_plugins.judge.rules:ContainedJudge",
            config=f"{_CONFIGS}:RuleConfig",
            summary="do the words of an answer occur in the text, one after the other?",
            protocol="contained/v1",
        ),
        JudgeSpec(
            name="openai",
            factory="editkit_plugins.judge.openai:OpenAiJudge",
            config=f"{_CONFIGS}:OpenAiConfig",
            summary="what does a model behind an endpoint with OpenAI's interface think?",
            protocol="openai/{model}/{prompt_version}",
        ),
    ]


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register ``judged``."""
    return [
        MetricSpec(
            name="judged",
            factory="editkit_plugins.judge.metric:Judged",
            config=f"{_CONFIGS}:JudgedConfig",
            summary="is what the edited model writes right, as a judge sees it?",
            scores=(
                Score(
                    "judged/rewrite",
                    "JE",
                    at_edit=True,
                    name="judged efficacy",
                    description="mean verdict of the judge on texts after the edited prompt",
                ),
                Score(
                    "judged/paraphrase",
                    "JP",
                    name="judged paraphrase",
                    description="mean verdict of the judge on texts after paraphrases",
                ),
                Score(
                    "judged/neighborhood",
                    "JN",
                    name="judged neighborhood",
                    description="mean verdict of the judge on texts about other subjects",
                ),
            ),
            protocol="editkit/judged/{frame}/greedy-{stop}-{tokens}/{judge_protocol}/v1",
        )
    ]
