"""The inputs of a run: its model, and the records of its dataset with their digests."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from editkit.benchmark.spec import ModelChoice
from editkit.data_types import EditRequest, Record, Records, RejectedRecord
from editkit.errors import ConfigError, DatasetError, EditkitError
from editkit.interfaces import Dataset
from editkit.records.config import as_configured
from editkit.registry.plugins import Offer
from editkit.storage.digests import digest_of_texts

if TYPE_CHECKING:
    from editkit.models import LanguageModel
    from editkit.registry.model_identity import ModelIdentity

__all__ = [
    "corpus_digest",
    "fingerprint_of",
    "identity_of",
    "load_model_of",
    "load_records",
    "n_layers_of",
]

_MOST_REASONS = 3
_LONGEST_REASON = 160


# ---------------------------------------------------------------- the model


def fingerprint_of(choice: ModelChoice) -> str:
    """The fingerprint of the chosen model, without loading it."""
    from editkit.registry.models import fingerprint_of

    return fingerprint_of(choice.name, revision=choice.revision)


def n_layers_of(choice: ModelChoice) -> int | None:
    """The number of layers of the chosen model, from its config; None if that is unavailable."""
    from editkit.registry.models import n_layers_of

    return n_layers_of(choice.name, revision=choice.revision, download=True)


def identity_of(choice: ModelChoice) -> ModelIdentity:
    """The names by which hyperparameter files may know the chosen model, without loading it."""
    from editkit.registry.model_identity import identity_of

    return identity_of(choice.name, revision=choice.revision, download=True)


def load_model_of(choice: ModelChoice) -> LanguageModel:
    """Load the chosen model.

    Raises:
        ModelError: It cannot be loaded.
    """
    from editkit.registry.models import load_model

    return load_model(
        choice.name,
        dtype=choice.dtype,
        device=choice.device,
        device_map=choice.device_map,
        attention=choice.attention,
        revision=choice.revision,
    )


# ---------------------------------------------------------------- the records


def load_records(dataset: Dataset[Any], offer: Offer) -> Records:
    """Load a dataset and check its records.

    Raises:
        DatasetError: It cannot be read, has no usable record, or repeats a case id.
    """
    try:
        loaded = dataset.load()
    except EditkitError:
        raise
    except Exception as error:
        raise DatasetError(
            f"dataset {offer.name!r} of {offer.source} failed: {type(error).__name__}: {error}.",
            hint="Run again with --debug to see where.",
        ) from error
    if problem := _type_problem(loaded):
        raise DatasetError(
            f"dataset {offer.name!r} of {offer.source} loaded {problem}.",
            hint=f"'editkit check-plugin {offer.name}' checks everything that a dataset must do.",
        )
    loaded = as_configured(loaded, getattr(dataset, "config", None))
    if not loaded.records:
        raise DatasetError(
            f"dataset {offer.name!r} has no usable record ({len(loaded.rejected)} were rejected)"
            f"{_reasons(loaded.rejected)}.",
            hint=f"Check its configuration with 'editkit describe {offer.name}', and its records "
            "against 'editkit explain datasets'.",
        )
    invalid = [r.case_id for r in loaded.records if not _is_case_id(r.case_id)]
    if invalid:
        raise DatasetError(
            f"dataset {offer.name!r} has the case id {invalid[0]!r:.60}, expected integers "
            "from 0 to 2**63 - 1.",
            hint="Number the records of the dataset.",
        )
    repeated = [case for case, n in Counter(r.case_id for r in loaded.records).items() if n > 1]
    if repeated:
        raise DatasetError(
            f"dataset {offer.name!r} has more than one record with case id {repeated[0]}.",
            hint="Give each record its own case id.",
        )
    return loaded


def _type_problem(loaded: object) -> str | None:
    """Describe what a dataset loaded if it is not Records; None if it is."""
    if not isinstance(loaded, Records) or not isinstance(loaded.records, tuple | list):
        return f"{loaded!r:.80}, expected editkit.Records with a tuple of records"
    for record in loaded.records:
        if not isinstance(record, Record) or not isinstance(record.request, EditRequest):
            return f"{record!r:.80} as a record, expected an editkit.Record with an EditRequest"
    return None


def _reasons(rejected: Sequence[RejectedRecord]) -> str:
    """The most frequent reasons, each with its count and an example."""
    examples: dict[str, RejectedRecord] = {}
    counts: Counter[str] = Counter()
    for broken in rejected:
        kind = re.sub(r"\[\d+\]", "[]", f"{broken.field}: {broken.reason}")
        examples.setdefault(kind, broken)
        counts[kind] += 1
    shown = [
        f"{number} x {kind[:_LONGEST_REASON]} (first: {_place(examples[kind])})"
        for kind, number in counts.most_common(_MOST_REASONS)
    ]
    others = len(counts) - len(shown)
    others_in_words = f"; {others} other {'reason' if others == 1 else 'reasons'}" if others else ""
    return (": " if shown else "") + "; ".join(shown) + others_in_words


def _place(broken: RejectedRecord) -> str:
    """The case, and the field if it is a place in a list, which the reason does not show."""
    case = f"{broken.case_id!s:.40}"
    return f"{case}, {broken.field:.80}" if re.search(r"\[\d+\]", broken.field) else case


def _is_case_id(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**63


def corpus_digest(loaded: Records, dataset: Offer, metric: Offer, kind: str) -> str:
    """Digest of the dataset's texts of a kind that a metric depends on.

    Raises:
        ConfigError: The dataset has no such texts.
    """
    if not loaded.texts.get(kind):
        raise ConfigError(
            f"metric {metric.name!r} needs {kind} texts, and dataset {dataset.name!r} has none.",
            hint=f"Name a file of texts (--set dataset.config.{kind}_texts=FILE; see "
            "'editkit explain datasets'), or choose other metrics with --metrics.",
        )
    return digest_of_texts(loaded.texts[kind])
