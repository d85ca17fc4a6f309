"""Free generation: what does an edited model write when nobody gives it the answer's tokens?

``docs/metrics.md`` documents the metrics ``free``, ``free-chat`` and ``wild``.
"""

from __future__ import annotations

from editkit import MetricSpec, Score, hookimpl

_CONFIGS = "editkit_plugins.free_generation.config"


_KINDS = {
    "rewrite": "the edited prompt",
    "paraphrase": "paraphrases",
    "neighborhood": "prompts about other subjects",
}
_WHAT = {
    "_forced": ("teacher-forced", "share of the wanted object's tokens that are the argmax after"),
    "": ("written", "share of texts that contain the wanted object, after"),
    "_exact": ("written exactly", "share of texts that are the wanted object, after"),
    "_gap": ("forced - written", "teacher-forced share minus the share written, after"),
}


def _scores(prefix: str, labels: dict[str, str]) -> tuple[Score, ...]:
    """Teacher-forced, free, exact and gap, for each kind of prompts."""
    keys = {f"{prefix}/{kind}{what}": (kind, what) for kind in _KINDS for what in _WHAT}
    return tuple(
        Score(
            key,
            labels.get(key, ""),
            signed=what == "_gap",
            higher_is_better=None if what == "_gap" else True,
            name=f"{_WHAT[what][0]}, {kind}",
            description=f"{_WHAT[what][1]} {_KINDS[kind]}",
        )
        for key, (kind, what) in keys.items()
    )


@hookimpl
def editkit_metrics() -> list[MetricSpec]:
    """Register ``free``, ``free-chat`` and ``wild``."""
    return [
        MetricSpec(
            name="free",
            factory="editkit_plugins.free_generation.metric:Free",
            config=f"{_CONFIGS}:FreeConfig",
            summary="does the model write the wanted object, and how far does teacher forcing "
            "flatter it?",
            scores=_scores(
                "free",
                {
                    "free/rewrite_forced": "TF E",
                    "free/rewrite": "Free E",
                    "free/rewrite_gap": "Gap E",
                    "free/paraphrase_forced": "TF P",
                    "free/paraphrase": "Free P",
                    "free/neighborhood_forced": "TF N",
                    "free/neighborhood": "Free N",
                },
            ),
            protocol="editkit/free/{frame}/greedy-{stop}-{tokens}/contained/v1",
        ),
        MetricSpec(
            name="free-chat",
            factory="editkit_plugins.free_generation.metric:FreeChat",
            config=f"{_CONFIGS}:FreeChatConfig",
            summary="does the model write the wanted object as its answer in a chat?",
            scores=_scores(
                "free_chat",
                {
                    "free_chat/rewrite": "Chat E",
                    "free_chat/paraphrase": "Chat P",
                    "free_chat/neighborhood": "Chat N",
                },
            ),
            protocol="editkit/free/chat/greedy-{stop}-{tokens}/contained/v1",
        ),
        MetricSpec(
            name="wild",
            factory="editkit_plugins.free_generation.wild:Wild",
            config=f"{_CONFIGS}:WildConfig",
            summary='the protocol of "The mirage of model editing", with exact match',
            scores=(
                Score(
                    "wild/reliability",
                    "Reliability",
                    name="edit written",
                    description="share of edited prompts after which the model writes exactly "
                    "the new object",
                ),
                Score(
                    "wild/generalization",
                    "Generalization",
                    name="after paraphrases",
                    description="share of paraphrases after which the model writes exactly the "
                    "new object",
                ),
                Score(
                    "wild/locality",
                    "Locality",
                    name="unchanged texts",
                    description="share of tokens about other subjects that are those of the "
                    "unedited model",
                ),
            ),
            protocol="wild/{frame}/greedy-wild-50/exact-match/v1",
        ),
    ]
