"""Judges of what models write: ``exact``, ``contained`` (``docs/metrics.md``)."""

from __future__ import annotations

from editkit import JudgeSpec, hookimpl

_CONFIGS = "editkit_plugins.judge.config"


@hookimpl
def editkit_judges() -> list[JudgeSpec]:
    """Register the judges."""
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
    ]
