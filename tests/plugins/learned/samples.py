"""Records, settings and trainings for a tiny model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from editkit import EditRequest, LanguageModel, Probe, Record
from editkit_plugins.learned.config import KeConfig, MendConfig
from editkit_plugins.learned.editor import KeEditor, LearnedEditor, MendEditor
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import Settings
from editkit_plugins.learned.training.data import RecordSource
from editkit_plugins.learned.training.trainer import Training

_CITIES = ("Seattle", "Paris", "Rome", "Danielle", "Windows", "Müller")
_COUNTRIES = ("France", "Italy", "Nintendo", "Microsoft")

MEND = MendSettings(
    blocks=2,
    rank=8,
    steps=6,
    edits_per_step=3,
    locality=2,
    lr=1e-3,
    initial_rate=1e-3,
    edit_weight=1.0,
    validate_every=3,
    validation=0.3,
    other_targets=True,
    other_wordings=True,
)
KE = KeSettings(
    blocks=2,
    hidden=8,
    condition=8,
    steps=6,
    edits_per_step=3,
    locality=2,
    lr=1e-3,
    edit_weight=1.0,
    validate_every=3,
    validation=0.3,
)
BOTH: dict[str, Settings] = {"mend": MEND, "ke": KE}
FACTS: dict[str, Any] = {"editor": "test", "model": "tiny", "dataset": "d", "data_digest": "0"}


def records(n: int = 12) -> list[Record]:
    result = []
    for i in range(n):
        subject, true = _CITIES[i % len(_CITIES)], _COUNTRIES[i % 4]
        new = _COUNTRIES[(i + 1) % 4]
        prompt = ("{} is in", "The capital {} is of")[i % 2]
        result.append(
            Record(
                case_id=i,
                request=EditRequest(prompt, subject, new, true, "P17"),
                probes={
                    "rewrite": (Probe(prompt.replace("{}", subject), true, new),),
                    "paraphrase": (Probe(f"The city of {subject} is in", true, new),),
                    "neighborhood": (Probe(f"{_CITIES[(i + 1) % 6]} is in", true, new),),
                },
            )
        )
    return result


def training(model: LanguageModel, settings: Settings, folder: Path, **facts: Any) -> Training:
    source = RecordSource(
        model,
        records(),
        settings.validation,
        other_targets=settings.other_targets,
        other_wordings=settings.other_wordings,
    )
    identity = {**FACTS, "model_fingerprint": model.fingerprint, **facts}
    return Training(model, source, settings, identity, folder)


def editor_of(kind: str, folder: Path) -> LearnedEditor[Any]:
    if kind == "mend":
        return MendEditor(MendConfig(trained=str(folder)))
    return KeEditor(KeConfig(trained=str(folder)))
