"""Which edits did not work: counts, summary, advice, and what the weights show."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from editkit import Config, Dense, Editor, EditRequest, LanguageModel, LowRank, Rows, WeightDelta
from editkit.editing.delta_effects import Effects
from editkit.editing.deltas import Change
from editkit.editing.outcomes import KINDS, ROUNDED_AWAY, Edit, is_probable, outcomes_of, unwatched
from tests.tiny import tiny

REQUESTS = [
    EditRequest("{} is in the city of", "The Space Needle", "Paris"),
    EditRequest("{} was created by", "Mario Kart", "Microsoft"),
]


def kinds(notes: dict[str, Any], taken: float | None = None) -> set[str]:
    actual = outcomes_of([Edit("case 1", notes, taken)]).counts()
    return {kind for kind, n in actual.items() if n}


@pytest.mark.parametrize(
    ("notes", "taken", "expected"),
    [
        ({"converged": True, "delta_norm": 3.0}, 1.0, set()),
        ({}, None, set()),
        ({"loss": 9.0, "steps": 25}, 1.0, set()),  # a loss alone is no verdict
        ({"converged": False}, 1.0, {"unconverged"}),
        ({"converged": False}, 0.0, {"unconverged"}),
        ({"unstable": "the norm is 9"}, 1.0, {"unstable"}),
        ({"unstable": ""}, 1.0, set()),
        ({"converged": True}, 0.0, {"contradicted"}),
        ({}, 0.0, {"untaken"}),
        ({"delta_norm": 0.0}, 0.0, {"unchanged"}),
        ({"delta_norm": 0.0, "converged": True}, 1.0, set()),  # it was true before
        ({"delta_norm": 0.0, "converged": True}, 0.0, {"contradicted"}),
        ({"delta_norm": 0.1, ROUNDED_AWAY: 1.0}, None, {"unchanged"}),
        ({"delta_norm": 0.1, ROUNDED_AWAY: 0.7, "converged": True}, 1.0, {"rounded"}),
        ({"delta_norm": 0.1, ROUNDED_AWAY: 0.2, "converged": True}, 1.0, set()),
        ({"converged": "yes", "delta_norm": "0", ROUNDED_AWAY: None}, 1.0, set()),
        ({"converged": 0, "delta_norm": False}, 1.0, set()),  # no clear verdict
    ],
)
def test_outcomes_are_counted_by_kind(
    notes: dict[str, Any], taken: float | None, expected: set[str]
) -> None:
    assert kinds(notes, taken) == expected


def test_the_summary_has_counts_and_advice() -> None:
    edits = [
        *(Edit(f"case {i}", {"converged": False, "advice": "raise steps (20)."}) for i in range(5)),
        Edit("case 5", {"unstable": "the norm\nis 9", "advice": "raise ridge"}),
        Edit("case 6", {"converged": True, "advice": "never shown", "warning": "two tokens."}),
        Edit("case 7", {"converged": True}),
    ]
    actual = outcomes_of(edits)
    assert actual.summary == (
        "of 8 edits, 5 did not converge and 1 is unstable (case 5: the norm is 9). "
        "1 of 8: two tokens. What to change: raise steps (20); or raise ridge."
    )
    assert not outcomes_of(edits[-1:])
    assert outcomes_of(edits[-1:]).summary == ""
    assert outcomes_of([]).summary == ""


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=4,
)
keys = st.sampled_from(
    ["converged", "unstable", "warning", "advice", "loss", "delta_norm", ROUNDED_AWAY]
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.dictionaries(keys, values), st.none() | st.floats()), max_size=5))
def test_any_note_of_a_third_party_is_accepted(edits: list[tuple[dict[str, Any], Any]]) -> None:
    actual = outcomes_of(Edit("case", notes, taken) for notes, taken in edits)
    assert all(0 <= n <= len(edits) for n in actual.counts().values())
    assert "\n" not in actual.summary
    assert bool(actual.summary) == bool(actual)
    assert set(actual.document()) == {"n", *KINDS, "warnings", "advice", "summary"}


def test_a_probable_target_outweighs_all_other_tokens() -> None:
    assert is_probable(0.69)
    assert not is_probable(0.70)


# ---------------------------------------------------------------- what the weights show


def delta_of(model: LanguageModel, change: Any, request: EditRequest = REQUESTS[0]) -> WeightDelta:
    name = f"{model.path(1, 'mlp_out')}.weight"
    return WeightDelta({name: change}, request, "test", {}, model.fingerprint)


def shape_of(model: LanguageModel) -> tuple[int, int]:
    weight = model.hf.get_parameter(f"{model.path(1, 'mlp_out')}.weight")
    return max(weight.shape), min(weight.shape)  # the inner width is the larger one


@pytest.mark.parametrize("architecture", ["gpt2", "llama"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_loss_to_rounding_is_measured(architecture: str, dtype: torch.dtype) -> None:
    """Against the definition: the edited weights in their own type, minus those before."""
    model = tiny(architecture, dtype=dtype)
    name = f"{model.path(1, 'mlp_out')}.weight"
    weight = model.hf.get_parameter(name).detach()
    stored = weight if architecture == "gpt2" else weight.T  # (in, out)
    step = torch.finfo(dtype).eps * float(weight.float().abs().mean())
    generator = torch.Generator().manual_seed(1)
    for size, least, most in ((1e-3, 0.99, 1.0), (1.0, 0.05, 0.95), (1e4, 0.0, 0.0)):
        values = size * step * torch.randn(stored.shape, generator=generator)
        kept = (stored.float() + values).to(dtype).float() - stored.float()
        lost = float((values - kept).norm() / values.norm())
        actual = Effects(model).of(delta_of(model, Dense(values)))
        assert actual["delta_norm"] == pytest.approx(float(values.norm()), rel=1e-5)
        measured = actual.get(ROUNDED_AWAY, 0.0)
        assert least <= measured <= most
        assert measured == pytest.approx(lost, abs=2e-3)


def test_the_norm_of_every_kind_of_change() -> None:
    model = tiny()
    n_in, n_out = shape_of(model)
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(n_in, 3, generator=generator), torch.randn(3, n_out)
    rows = Rows(torch.tensor([2, 5]), torch.randn(2, n_out, generator=generator), n_in)
    for change in (LowRank(left, right), rows, Dense(torch.randn(n_in, n_out))):
        delta = delta_of(model, change)
        assert Effects(model).of(delta)["delta_norm"] == pytest.approx(delta.norm(), rel=1e-5)
    nothing = WeightDelta({}, REQUESTS[0], "test", {}, model.fingerprint)
    assert Effects(model).of(nothing) == {"delta_norm": 0.0}
    assert Effects(model).of(delta_of(model, Dense(torch.zeros(n_in, n_out)))) == {"delta_norm": 0}


def test_a_delta_that_does_not_fit_is_not_measured() -> None:
    model = tiny()
    assert Effects(model).of(delta_of(model, Dense(torch.ones(2, 2)))) == {}
    stray = WeightDelta({"no.such": Dense(torch.ones(2))}, None, "t", {}, model.fingerprint)
    assert Effects(model).of(stray) == {}


def test_changes_of_a_third_partys_kind_and_with_gradients_are_measured() -> None:
    model = tiny()

    class Special(Dense):
        """A kind of its own, by name."""

    @dataclasses.dataclass(frozen=True, eq=False)
    class Ones(Change):
        """Adds one to every entry."""

        shape = shape_of(model)

        def dense(self) -> torch.Tensor:
            return torch.ones(*shape_of(model))

        def tensors(self) -> dict[str, torch.Tensor]:
            return {}

    entries = shape_of(model)[0] * shape_of(model)[1]
    assert Effects(model).of(delta_of(model, Ones()))["delta_norm"] == pytest.approx(entries**0.5)
    trained = torch.ones(*shape_of(model), requires_grad=True)
    for change in (Dense(trained), Special(trained)):
        assert Effects(model).of(delta_of(model, change))["delta_norm"] == pytest.approx(
            entries**0.5
        )


# ---------------------------------------------------------------- editors called from Python


class ThirdParty(Editor[Config]):
    """Returns deltas with the notes that a test asks for."""

    name = "mine"
    notes: tuple[dict[str, Any], ...] = ({}, {})
    size = 0.1

    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        n_in, n_out = shape_of(model)
        change = LowRank(torch.full((n_in, 1), self.size), torch.ones(1, n_out))
        name = f"{model.path(1, 'mlp_out')}.weight"
        return [
            WeightDelta({name: change}, request, self.name, {}, model.fingerprint, notes)
            for request, notes in zip(requests, self.notes, strict=False)
        ]


class Derived(ThirdParty):
    def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> list[WeightDelta]:
        return super().edit(model, requests)


def warnings_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]


@pytest.mark.parametrize("editor", [ThirdParty, Derived])
def test_a_call_logs_one_warning_for_all_failed_edits(
    editor: type[ThirdParty], caplog: pytest.LogCaptureFixture
) -> None:
    made = editor(Config())
    made.notes = ({"converged": False, "advice": "raise steps"}, {"converged": True})
    model = tiny()
    assert len(made.edit(model, REQUESTS)) == 2
    [text] = warnings_of(caplog)
    assert text == (
        "mine: of 2 edits, 1 did not converge. What to change: raise steps. "
        "The requests: 'The Space Needle is in the city of' -> 'Paris'."
    )
    caplog.clear()
    with unwatched():
        made.edit(model, REQUESTS)
    made.notes = ({"converged": True}, {})
    made.edit(model=model, requests=REQUESTS)
    made.edit(model, [])
    assert warnings_of(caplog) == []


def test_an_edit_without_changes_is_logged_unless_it_is_the_baseline(
    caplog: pytest.LogCaptureFixture,
) -> None:
    made = ThirdParty(Config())
    made.size = 0.0
    made.edit(tiny(), REQUESTS)
    [text] = warnings_of(caplog)
    assert "of 2 edits, 2 changed nothing" in text
    caplog.clear()
    made.name = "none"
    made.edit(tiny(), REQUESTS)
    assert warnings_of(caplog) == []


def test_a_change_that_is_lost_to_rounding_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    made = ThirdParty(Config())
    made.size = 1e-6
    made.edit(tiny(dtype=torch.bfloat16), REQUESTS)
    [text] = warnings_of(caplog)
    assert "2 changed nothing" in text
    assert "load the model in float32" in text
    caplog.clear()
    made.edit(tiny(), REQUESTS)
    assert warnings_of(caplog) == []


def test_an_editors_exception_propagates_and_later_calls_log_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Raising(ThirdParty):
        def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> Any:
            raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        Raising(Config()).edit(tiny(), REQUESTS)
    made = ThirdParty(Config())
    made.notes = ({"converged": False},)
    made.edit(tiny(), REQUESTS)
    assert len(warnings_of(caplog)) == 1


def test_a_result_that_is_not_a_list_of_deltas_is_returned_unchanged() -> None:
    class Odd(Editor[Config]):
        answer: Any = None

        def edit(self, model: LanguageModel, requests: Sequence[EditRequest]) -> Any:
            return self.answer

    made = Odd(Config())
    for answer in (None, 3, ["x"], (), {"a": 1}):
        made.answer = answer
        assert made.edit(tiny(), REQUESTS) == answer
