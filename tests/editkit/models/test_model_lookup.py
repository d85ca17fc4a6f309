from __future__ import annotations

import json
import re
import types
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
from huggingface_hub import errors as hub

from editkit import ModelError, load_model
from editkit.registry.models import n_layers_of


@pytest.mark.parametrize("key", ["num_hidden_layers", "n_layer"])
def test_the_number_of_layers_is_read_from_the_config_alone(tmp_path: Path, key: str) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"n_embd": 8, key: 12}), encoding="utf-8")
    assert n_layers_of(str(tmp_path)) == 12
    assert n_layers_of("atlas") == 6


def test_a_hub_models_config_is_found_in_the_hubs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "models--someone--my-gpt2"
    (repository / "snapshots" / "0123").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123", encoding="utf-8")
    config = repository / "snapshots" / "0123" / "config.json"
    config.write_text('{"n_layer": 48}', encoding="utf-8")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    assert n_layers_of("someone/my-gpt2") == 48
    assert n_layers_of("someone/other") is None


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"n_layer": "many"}'])
def test_configs_without_a_number_of_layers(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.json").write_text(content, encoding="utf-8")
    assert n_layers_of(str(tmp_path)) is None


@pytest.mark.parametrize("name", ["no-such-model", "./nowhere", "a/b/c", "bad name!", ""])
@pytest.mark.parametrize("download", [False, True])
def test_models_that_are_not_available(name: str, download: bool) -> None:
    assert n_layers_of(name, download=download) is None


def answer(status: int) -> Any:
    """What errors of the hub's client carry, whichever HTTP library it is built on."""
    return types.SimpleNamespace(status_code=status, headers={}, request=None)


REFUSALS: list[tuple[Exception, str, str]] = [
    (
        hub.GatedRepoError("403 Client Error", response=answer(403)),
        r"^model 'org/name' is gated: only users whom its owner has accepted",
        r"Accept its terms on https://huggingface\.co/org/name, then run `hf auth login`",
    ),
    (
        hub.RepositoryNotFoundError("401 Client Error", response=answer(401)),
        r"^model 'org/name' was not found: it is not a registered model, a folder, or a hub id",
        r"Registered models: .*atlas.* If it is private, run `hf auth login`",
    ),
    (
        hub.HFValidationError("Repo id must use alphanumeric chars"),
        r"^model 'org/name' was not found",
        r"Registered models",
    ),
    (
        hub.RevisionNotFoundError("404 Client Error", response=answer(404)),
        r"^model 'org/name' has no revision 'v9'",
        r"Choose a branch, tag or commit",
    ),
    (
        hub.DisabledRepoError("403 Client Error", response=answer(403)),
        r"^the hub has disabled the model 'org/name'",
        r"another copy",
    ),
    (
        hub.LocalEntryNotFoundError("Cannot find an appropriate cached snapshot folder"),
        r"not in the hub's cache, and could not be downloaded \(the hub could not be reached",
        r"go online once",
    ),
    (
        hub.OfflineModeIsEnabled("Cannot reach https://huggingface.co: offline mode is enabled."),
        r"could not be downloaded \(the hub could not be reached, or HF_HUB_OFFLINE is set\)",
        r"go online once",
    ),
    (
        hub.HfHubHTTPError("503 Server Error", response=answer(503)),
        r"could not be downloaded \(HfHubHTTPError: 503 Server Error\)",
        r"go online once",
    ),
    (
        OSError(28, "No space left on device"),
        r"could not be downloaded \(OSError: \[Errno 28\] No space left on device\)",
        r"copy the model's folder to this machine",
    ),
]


@pytest.mark.parametrize(
    ("refusal", "message", "hint"), REFUSALS, ids=[type(r[0]).__name__ for r in REFUSALS]
)
def test_errors_of_the_hub_have_clear_messages(
    monkeypatch: pytest.MonkeyPatch, refusal: Exception, message: str, hint: str
) -> None:
    def download(*_: Any, **__: Any) -> str:
        raise refusal

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(ModelError) as caught:
        load_model("org/name", revision="v9")
    assert re.search(message, caught.value.message), caught.value.message
    assert re.search(hint, str(caught.value.hint)), caught.value.hint
    assert caught.value.exit_code == 2
