"""Statements of the ROME paper about large models, each with a check on a model's results."""

from __future__ import annotations

import dataclasses

from editkit_benchmarks.statements.checks import (
    Check,
    above,
    all_of,
    below,
    effect_above,
    effect_above_in_all,
    fails_in,
    grows_after,
    only_without_failures,
    unchanged,
)

_S, _ES, _PS, _NS = (
    "summary/score",
    "efficacy/score",
    "paraphrase/score",
    "neighborhood/score",
)
_GENERALIZATION, _SPECIFICITY = "generalization", "specificity"
_SUBJECT, _LAST = "last subject token", "last token"
_ZSRE_EDITORS = ("ft", "ft+l", "kn", "ke-cf", "mend-cf", "rome")


@dataclasses.dataclass(frozen=True)
class Statement:
    """A statement of the paper and its check.

    Attributes:
        text: The statement.
        evidence: The paper's evidence, on GPT-2 XL unless it names another model.
        experiment: The experiment whose results the check reads.
        check: The check.
    """

    text: str
    evidence: str
    experiment: str
    check: Check


STATEMENTS = (
    Statement(
        "ROME has the best summary score of all editors",
        "S 89.2; next best: FT+L, 66.9",
        "counterfact",
        above(_S, ("rome", {})),
    ),
    Statement(
        "ROME is the only editor that fails neither in generalization nor in specificity",
        "our rules for clear failures, which reproduce the marks in the published table",
        "counterfact",
        only_without_failures("rome"),
    ),
    Statement(
        "plain fine-tuning generalizes, but also changes neighbours",
        "FT: PS 87.9, NS 40.4 (unedited 78.1)",
        "counterfact",
        all_of(fails_in({"ft": {_SPECIFICITY}}), above(_NS, ("none", {}), ("ft", {}))),
    ),
    Statement(
        "constrained fine-tuning spares neighbours, but does not generalize",
        "FT+L: NS 70.3, PS 48.7",
        "counterfact",
        fails_in({"ft+l": {_GENERALIZATION}}),
    ),
    Statement(
        "knowledge neurons hardly edit at all",
        "KN: ES 28.7 (unedited 22.2)",
        "counterfact",
        below(_ES, ("kn", {}), 50.0),
    ),
    Statement(
        "trained on counterfactual edits, KE and MEND edit reliably, but lose specificity",
        "NS: KE 30.9, KE-CF 6.9; MEND 37.9, MEND-CF 5.5",
        "counterfact",
        all_of(above(_NS, ("ke", {}), ("ke-cf", {})), above(_NS, ("mend", {}), ("mend-cf", {}))),
    ),
    Statement(
        "ROME hardly affects fluency",
        "GE 621.9 (unedited 626.6)",
        "counterfact",
        unchanged("fluency/entropy", ("rome",), 10.0),
    ),
    Statement(
        "texts after ROME are the most consistent with the new fact",
        "RS 41.9; next best: FT, 40.5 (unedited 31.9)",
        "counterfact",
        above("consistency/reference", ("rome", {})),
    ),
    Statement(
        "on zsRE, ROME generalizes better than both variants of fine-tuning",
        "paraphrase: ROME 88.1, FT 82.1, FT+L 47.2",
        "zsre",
        all_of(
            above("zsre/paraphrase", ("rome", {}), ("ft", {})),
            above("zsre/paraphrase", ("rome", {}), ("ft+l", {})),
        ),
    ),
    Statement(
        "zsRE's specificity does not distinguish editors",
        "all editors between 23.2 and 24.9 (unedited 24.2)",
        "zsre",
        unchanged("zsre/specificity", _ZSRE_EDITORS, 2.0),
    ),
    Statement(
        "facts have an early site at the subject's last token, not at its first",
        "average effect 8.7% at the last token, layer 15 of 48",
        "average-causal-effects",
        effect_above(("state", _SUBJECT), ("state", "first subject token")),
    ),
    Statement(
        "the early site is in MLPs, not in attention",
        "at the last subject token: MLPs 6.6%, attention 1.6%",
        "average-causal-effects",
        effect_above(("mlp", _SUBJECT), ("attn", _SUBJECT)),
    ),
    Statement(
        "the late site, at the last token, is in attention",
        "attention's effects there are strong in late layers, MLPs' are not",
        "average-causal-effects",
        effect_above(("attn", _LAST), ("mlp", _LAST), late=True),
    ),
    Statement(
        "the early site has less effect when the token's later MLPs are severed",
        "severing MLPs removes the effects of early layers",
        "severed-effects",
        effect_above(("state", _SUBJECT), ("state-mlp-severed", _SUBJECT), same_layer=True),
    ),
    Statement(
        "severing later attention costs less effect than severing later MLPs",
        "severing attention removes less",
        "severed-effects",
        effect_above(
            ("state-attn-severed", _SUBJECT), ("state-mlp-severed", _SUBJECT), same_layer=True
        ),
    ),
    Statement(
        "this does not depend on the noise",
        "the same result with noise of other strengths and shapes",
        "noise-robustness",
        effect_above_in_all(("mlp", _SUBJECT), ("attn", _SUBJECT)),
    ),
    Statement(
        "ROME works best at the subject's last token",
        "the best S is there, at middle layers",
        "layer-token-sweep",
        all_of(
            *(
                above(_S, ("rome", {"position": "subject_last"}), ("rome", {"position": other}))
                for other in ("subject_first", "subject_first_after_last", "last")
            )
        ),
    ),
    Statement(
        "contexts before the prompt make ROME generalize",
        "the published contexts are texts of 5 and 10 tokens that the model writes",
        "prefix-ablation",
        above(
            _PS,
            ("rome", {"context_lengths": [[10, 4], [10, 9]]}),
            ("rome", {"context_lengths": []}),
        ),
    ),
    Statement(
        "editing attention (saying) generalizes less than editing MLPs (knowing)",
        "AttnEdit's model says the new fact after the prompt, but does not know it elsewhere",
        "knowing-vs-saying",
        above(_PS, ("rome", {}), ("attnedit", {})),
    ),
    Statement(
        "after ROME the fact is recalled at the edited site",
        "the rank-one edit is written into MLPs at the last subject token",
        "knowing-vs-saying",
        grows_after("rome", "mlp", _SUBJECT),
    ),
)
