"""What the ROME paper says of large models, and how it is tried on any model's results."""

from __future__ import annotations

import dataclasses

from editkit_benchmarks.statements.checks import (
    Check,
    above,
    alike,
    all_of,
    effect_above,
    effect_above_in_all,
    grows_after,
    marked,
    only_unmarked,
    under,
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
    """One statement.

    Attributes:
        says: What is said.
        paper: What it rests on in the paper (GPT-2 XL where nothing else is said).
        experiment: Name of the experiment that tries it.
        check: How.
    """

    says: str
    paper: str
    experiment: str
    check: Check


STATEMENTS = (
    Statement(
        "ROME has the best summary score of all editors",
        "S 89.2; the next, FT+L, 66.9",
        "counterfact",
        above(_S, ("rome", {})),
    ),
    Statement(
        "ROME is the only editor that fails neither in generalization nor in specificity",
        "by our rules for clear failures, which reproduce the marks on the published table",
        "counterfact",
        only_unmarked("rome"),
    ),
    Statement(
        "plain fine-tuning generalizes, and takes the neighbours along",
        "FT: PS 87.9, NS 40.4 (unedited 78.1)",
        "counterfact",
        all_of(marked({"ft": {_SPECIFICITY}}), above(_NS, ("none", {}), ("ft", {}))),
    ),
    Statement(
        "constrained fine-tuning spares the neighbours, and does not generalize",
        "FT+L: NS 70.3, PS 48.7",
        "counterfact",
        marked({"ft+l": {_GENERALIZATION}}),
    ),
    Statement(
        "knowledge neurons hardly edit at all",
        "KN: ES 28.7 (unedited 22.2)",
        "counterfact",
        under(_ES, ("kn", {}), 50.0),
    ),
    Statement(
        "trained on counterfactual edits, KE and MEND edit surely and lose specificity",
        "NS: KE 30.9, KE-CF 6.9; MEND 37.9, MEND-CF 5.5",
        "counterfact",
        all_of(above(_NS, ("ke", {}), ("ke-cf", {})), above(_NS, ("mend", {}), ("mend-cf", {}))),
    ),
    Statement(
        "ROME leaves fluency nearly as it is",
        "GE 621.9 (unedited 626.6)",
        "counterfact",
        alike("fluency/entropy", ("rome",), 10.0),
    ),
    Statement(
        "what ROME's model writes is the most consistent with the new fact",
        "RS 41.9; the next, FT, 40.5 (unedited 31.9)",
        "counterfact",
        above("consistency/reference", ("rome", {})),
    ),
    Statement(
        "on zsRE ROME generalizes better than both ways of fine-tuning",
        "paraphrase: ROME 88.1, FT 82.1, FT+L 47.2",
        "zsre",
        all_of(
            above("zsre/paraphrase", ("rome", {}), ("ft", {})),
            above("zsre/paraphrase", ("rome", {}), ("ft+l", {})),
        ),
    ),
    Statement(
        "zsRE's specificity does not tell editors apart",
        "all editors between 23.2 and 24.9 (unedited 24.2)",
        "zsre",
        alike("zsre/specificity", _ZSRE_EDITORS, 2.0),
    ),
    Statement(
        "facts have an early site at the subject's last token, not at its first one",
        "average effect 8.7% at the last one, layer 15 of 48",
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
        "without the token's later MLPs the early site brings less back",
        "severing MLPs takes the effects of early layers away",
        "severed-effects",
        effect_above(("state", _SUBJECT), ("state-mlp-severed", _SUBJECT), same_layer=True),
    ),
    Statement(
        "without its later attention it brings back more than without the MLPs",
        "severing attention takes less away",
        "severed-effects",
        effect_above(
            ("state-attn-severed", _SUBJECT), ("state-mlp-severed", _SUBJECT), same_layer=True
        ),
    ),
    Statement(
        "this does not hang on the noise",
        "the same picture under other strengths and shapes of it",
        "noise-robustness",
        effect_above_in_all(("mlp", _SUBJECT), ("attn", _SUBJECT)),
    ),
    Statement(
        "ROME works best at the subject's last token",
        "best S there, at middle layers",
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
        "which is why texts of 5 and 10 tokens that the model writes precede it",
        "prefix-ablation",
        above(
            _PS,
            ("rome", {"context_lengths": [[10, 4], [10, 9]]}),
            ("rome", {"context_lengths": []}),
        ),
    ),
    Statement(
        "editing attention (saying) generalizes less than editing MLPs (knowing)",
        "AttnEdit says the new fact after the prompt, and does not know it elsewhere",
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
