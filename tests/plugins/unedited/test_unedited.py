from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from editkit import EditRequest, LanguageModel
from editkit_plugins.unedited import editkit_editors
from editkit_plugins.unedited.config import NoEditorConfig
from editkit_plugins.unedited.editor import NoEditor

WEIGHTS = SimpleNamespace(state=lambda: ())
MODEL = cast(LanguageModel, SimpleNamespace(fingerprint="f00", weights=WEIGHTS))
REQUEST = EditRequest(prompt="{} stands in", subject="the Fish Market", target_new="Oslo")


def edit(*requests: EditRequest) -> list[Any]:
    return NoEditor(NoEditorConfig()).edit(MODEL, requests)


def test_one_empty_delta_per_request() -> None:
    first, second = edit(REQUEST, REQUEST)
    assert first.changes == second.changes == {}
    assert (first.request, first.editor, first.model_fingerprint) == (REQUEST, "none", "f00")


def test_no_requests_give_no_deltas() -> None:
    assert edit() == []


def test_the_name_that_users_type() -> None:
    assert [spec.name for spec in editkit_editors()] == ["none"]
