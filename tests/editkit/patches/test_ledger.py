"""Ledgers: the bytes depend on the applied patches alone, and on nothing that happened before."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from editkit import (
    DeltaError,
    Dense,
    EditRequest,
    Ledger,
    LedgerError,
    LowRank,
    ModelError,
    Patch,
    PromptContext,
    WeightDelta,
    applied,
    load_model,
)
from editkit.editing.deltas import stack
from editkit.storage.cache import read_safetensors
from tests.editkit.patches.ledgers import (
    CITIES,
    contents,
    patch_for,
    patches_for,
    save_tiny,
    served,
)

# ---------------------------------------------------------------- bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_any_order_of_actions_gives_the_bytes_of_the_subset(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    base = save_tiny(tmp_path / "model", dtype=dtype)
    original = contents(base)
    patches = patches_for(base)
    model = load_model(str(base), dtype=str(dtype).removeprefix("torch."))
    bytes_of: dict[frozenset[int], dict[str, bytes]] = {frozenset(): original}
    steps = 6 if dtype == torch.float32 else 3
    for order in range(3):
        draw = random.Random(order)
        ledger = Ledger(tmp_path / f"ledger-{order}", model=base)
        now: set[int] = set()
        assert served(ledger) == original
        for _ in range(steps):
            several = draw.sample(range(10), draw.randint(1, 3))
            if new := [number for number in several if number not in now]:
                ledger.apply([patches[number] for number in new])
            if old := [number for number in several if number in now]:
                ledger.revert([patches[number] for number in old])
            now ^= set(several)
            _check_bytes(ledger, frozenset(now), bytes_of)
            _check_values(ledger, model, [patches[number].delta for number in now])
        ledger.revert([patches[number] for number in draw.sample(sorted(now), len(now))])
        assert served(ledger) == original
    assert contents(base) == original
    assert len(bytes_of) > steps


def _check_bytes(
    ledger: Ledger, now: frozenset[int], bytes_of: dict[frozenset[int], dict[str, bytes]]
) -> None:
    files = served(ledger)
    assert bytes_of.setdefault(now, files) == files
    assert [bytes_of[other] for other in bytes_of if other != now].count(files) == 0


def _check_values(ledger: Ledger, model: object, deltas: list[WeightDelta]) -> None:
    """The served weights are those of the model with the same edits in memory."""
    stored = load_file(ledger.model / "model.safetensors")
    with applied(model, deltas):  # type: ignore[arg-type]
        for name, weight in model.hf.named_parameters():  # type: ignore[attr-defined]
            if name in stored:
                torch.testing.assert_close(stored[name], weight.detach())


@pytest.mark.slow
def test_ten_patches_of_atlas_in_twenty_orders(tmp_path: Path) -> None:
    from editkit import make_editor

    model = load_model("atlas")
    editor = make_editor("rome", model)
    editor.prepare(model)
    cities = ("Kenya", "France", "Japan", "Brazil", "Egypt", "Canada", "India", "Peru", "Chad")
    requests = [EditRequest("{} is in the continent of", city, "Europe") for city in cities]
    requests.append(EditRequest("{} is made by", "Toyota Corolla", "Ferrari"))
    patches = [Patch(editor.edit(model, [request])[0]) for request in requests]
    bytes_of: dict[frozenset[int], dict[str, bytes]] = {}
    ledger = Ledger(tmp_path / "ledger", model="atlas")
    original = served(ledger)
    for order in range(20):
        draw = random.Random(order)
        now: set[int] = set()
        for number in draw.sample(range(10), 10):
            ledger.apply(patches[number])
            now.add(number)
            _check_bytes(ledger, frozenset(now), bytes_of)
        for number in draw.sample(range(10), 10):
            ledger.revert(patches[number])
            now.remove(number)
            if now:
                _check_bytes(ledger, frozenset(now), bytes_of)
        assert served(ledger) == original
    assert len(ledger.entries) == 10
    assert ledger.check() == []


def test_plain_transformers_loads_what_is_served(ledger: Ledger, patches: list[Patch]) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    plain = AutoModelForCausalLM.from_pretrained(ledger.link)
    tokens = AutoTokenizer.from_pretrained(ledger.link)("Paris is in", return_tensors="pt")
    model = load_model(ledger.base.path)
    with torch.no_grad(), applied(model, [each.delta for each in patches[:2]]):
        expected = model.hf(**tokens).logits
    with torch.no_grad():
        assert (plain(**tokens).logits - expected).abs().max() < 1e-5
        assert (model.hf(**tokens).logits - expected).abs().max() > 1e-2


def test_patches_made_on_top_of_others_follow_them(base: Path, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", model=base)
    fingerprint = ledger.base.fingerprint
    first = patch_for(fingerprint, 0)
    second = patch_for(fingerprint, 1, first.delta)
    third = patch_for(fingerprint, 2, first.delta, second.delta)
    with pytest.raises(LedgerError, match=f"on top of the patch {first.delta.digest()[:12]}"):
        ledger.apply(second)
    ledger.apply([third, second, first])
    model = load_model(str(base))
    _check_values(ledger, model, [first.delta, second.delta, third.delta])
    with pytest.raises(LedgerError, match=r"patch 2 \(.*\) was made on top of patch 3 \("):
        ledger.revert(first)
    whole = served(ledger)
    ledger.revert([2, 1])
    assert [entry.number for entry in ledger.applied] == [3]
    ledger.apply([second, third])
    assert served(ledger) == whole
    ledger.revert(first, force=True)
    assert "was made on top of patch 3" in ledger.log()[-1].forced[0]


def test_a_gguf_file_is_copied_dequantised_and_not_needed_later(tmp_path: Path) -> None:
    pytest.importorskip("gguf")
    from tests.editkit.models.test_gguf import source, write

    file = write(tmp_path / "tiny.gguf", source.__wrapped__())  # type: ignore[attr-defined]
    model = load_model(str(file))
    delta = WeightDelta(
        {"model.layers.1.mlp.down_proj.weight": LowRank(torch.ones(96, 1), torch.ones(1, 64))},
        EditRequest("{} is in", "Rome", "France"),
        "test",
        {},
        model.fingerprint,
    )
    ledger = Ledger.create(tmp_path / "ledger", file, delta)
    whole = served(ledger)
    assert "weights.json" not in whole
    _check_values(ledger, model, [delta])
    file.unlink()
    ledger.revert(delta)
    assert served(ledger) == contents(ledger.folder / "base")
    ledger.apply(delta)
    assert served(ledger) == whole
    assert ledger.check() == []
    (ledger.folder / "base" / "config.json").unlink()
    with pytest.raises(LedgerError, match=r"base.config\.json is missing"):
        ledger.revert(delta)


def test_without_links_a_file_names_the_served_folder(
    base: Path, patches: list[Patch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("editkit.patches.ledger.can_link", lambda folder: False)
    ledger = Ledger.create(tmp_path / "ledger", base, patches[0])
    monkeypatch.undo()
    ledger.apply(patches[1])
    assert ledger.link.name == "model.txt"
    assert ledger.folder / ledger.link.read_text(encoding="utf-8").strip() == ledger.model
    _check_values(ledger, load_model(str(base)), [each.delta for each in patches[:2]])
    assert not (ledger.folder / "model").exists()
    ledger.link.write_text("elsewhere", encoding="utf-8")
    with pytest.raises(LedgerError, match="points to 'elsewhere', which is not a version"):
        ledger.revert(1)


def test_bytes_do_not_depend_on_the_number_of_threads(
    base: Path, patches: list[Patch], tmp_path: Path
) -> None:
    before = torch.get_num_threads()
    one = Ledger.create(tmp_path / "one", base, patches)
    try:
        torch.set_num_threads(3)
        three = Ledger.create(tmp_path / "three", base, patches)
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert served(one) == served(three)


# ---------------------------------------------------------------- who, what, when


def test_the_log_keeps_who_did_what_and_when(ledger: Ledger) -> None:
    ledger.revert(1)
    lines = ledger.log()
    assert [(line.action, line.number) for line in lines] == [
        ("create", None),
        ("apply", 1),
        ("apply", 2),
        ("apply", 3),
        ("revert", 3),
        ("revert", 1),
    ]
    assert [line.by for line in lines[:5]] == ["Ann"] * 4 + ["Bob"]
    assert "@" in lines[-1].by
    assert all(line.time.endswith("+00:00") for line in lines)
    assert sorted(line.time for line in lines) == [line.time for line in lines]
    assert lines[1].facts == ("Paris is in the country of Land 0",)
    written = (ledger.folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in written] == [line.to_dict() for line in lines]
    assert lines[1].created == "2026-01-02T03:04:05+00:00"


def test_entries_have_short_reprs(ledger: Ledger) -> None:
    assert repr(ledger).startswith(f"<Ledger {str(ledger.folder)!r}: 2 of 3 patches applied to ")
    assert repr(ledger.entries[2]) == (
        "<LedgerEntry 3: Oslo is in the country of Land 2, test, reverted>"
    )
    assert repr(ledger.log()[1]).endswith("Ann: apply 1: Paris is in the country of Land 0>")
    page = ledger._repr_html_()
    assert page.count("<tr>") == 4
    assert "Oslo is in the country of Land 2" in page


def test_markup_in_a_fact_is_inert(base: Path, tmp_path: Path) -> None:
    patch = patch_for(Ledger(tmp_path / "a", model=base).base.fingerprint, 0, city="<b>\x1b[31m")
    ledger = Ledger.create(tmp_path / "b", base, patch)
    assert "<b>" not in ledger._repr_html_()
    assert "\x1b" not in ledger._repr_html_() + repr(ledger.entries) + repr(ledger.log())


def test_a_patch_is_selected_by_number_digest_file_or_itself(
    ledger: Ledger, patches: list[Patch], tmp_path: Path
) -> None:
    path = patches[0].save(tmp_path / "1234567.safetensors")
    digest = patches[0].delta.digest()
    for selector in (1, "1", digest, digest[:8].upper(), path, str(path), patches[0]):
        [entry] = ledger.revert(selector)
        assert (entry.number, entry.applied) == (1, False)
        [entry] = ledger.apply(path)
        assert (entry.number, entry.applied) == (1, True)
    ledger.revert(patches[0].delta)
    assert len(ledger.entries) == 3
    assert ledger.patch(1).delta.digest() == digest
    assert ledger.patch(1).origin == patches[0].origin


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        (3, r"patch 3 \(.*\) is not applied: Bob reverted it at 20"),
        (4, r"patch 4 is not in the ledger.*number \(1, 2\)"),
        ("abcdef0123", "a patch with the digest 'abcdef0123' is not in the ledger"),
        ("nowhere.safetensors", "'nowhere.safetensors' is not in the ledger"),
        ([1, 1], "patch 1 is given twice"),
        ([], "no patch is given"),
        (True, "got bool True, expected a patch"),
        (None, "NoneType"),
    ],
)
def test_what_cannot_be_reverted_is_named(ledger: Ledger, selector: object, message: str) -> None:
    before = contents(ledger.folder)
    with pytest.raises((LedgerError, TypeError), match=message):
        ledger.revert(selector)  # type: ignore[arg-type]
    assert contents(ledger.folder) == before


# ---------------------------------------------------------------- refused


def _other_model(patch: Patch, fingerprint: str) -> Patch:
    origin = dataclasses.replace(patch.origin, model="gpt2-xl", revision="v2")  # type: ignore[type-var]
    return Patch(patch_for("f" * 32, 8).delta, origin)


def _with_context(patch: Patch, fingerprint: str) -> Patch:
    return Patch(dataclasses.replace(patch.delta, context=PromptContext(("Rome is in Italy.",))))


def _contradiction(patch: Patch, fingerprint: str) -> Patch:
    return patch_for(fingerprint, 11, city=CITIES[0])


REFUSED: dict[str, tuple[Callable[[Patch, str], Patch], str, str]] = {
    "other model": (
        _other_model,
        r"made on 'gpt2-xl' at revision v2 \(f{12}\), and the ledger is",
        "Use a ledger of that model: 'editkit patch apply FILE --ledger DIR', with --model gpt2-xl "
        "for a new ledger.",
    ),
    "same patch": (
        lambda patch, _: patch,
        "they are the same edit",
        "It is applied already, as patch 1: leave it out.",
    ),
    "contradiction": (
        _contradiction,
        "to be 'Land 0' and 'Land 11'",
        "To replace patch 1, revert first: 'editkit patch revert 1 --ledger DIR'.",
    ),
}
FORCING = " --force (force=True) applies anyway; the log then keeps this reason."


@pytest.mark.parametrize("case", REFUSED)
def test_a_refused_patch_changes_nothing_and_force_is_logged(
    ledger: Ledger, patches: list[Patch], case: str
) -> None:
    make, message, remedy = REFUSED[case]
    patch = make(patches[0], ledger.base.fingerprint)
    before = contents(ledger.folder)
    with pytest.raises(LedgerError, match=message) as refused:
        ledger.apply([patches[5], patch])
    assert refused.value.hint == remedy + FORCING
    assert contents(ledger.folder) == before
    ledger.apply([patch], force=True)
    line = ledger.log()[-1]
    assert line.number == 4
    assert len(line.forced) == 1
    assert ledger.check() == []
    ledger.apply(patches[5])  # what was forced is not an objection any more
    ledger.revert([4, patches[5]])
    assert served(ledger) == {
        name.partition("/")[2].partition("/")[2]: content
        for name, content in before.items()
        if name.startswith("versions/") and name.count("/") == 2
    }


def test_hints_about_several_patches_name_each_remedy_once(
    ledger: Ledger, patches: list[Patch]
) -> None:
    fingerprint = ledger.base.fingerprint
    against_both = [patch_for(fingerprint, 11 + i, city=CITIES[i]) for i in (1, 0)]
    on_top = patch_for(fingerprint, 9, patches[5].delta)
    for given, remedy in [
        (against_both, "To replace patches 1 and 2, revert first: 'editkit patch revert 1 2 "
        "--ledger DIR'."),
        (patches[0], "It is applied already, as patch 1: there is nothing to do."),
        ([patches[5], patches[5]], "Give it only once."),
        ([patches[5], patch_for(fingerprint, 12, city=CITIES[5])], "Leave one of them out."),
        (on_top, "Apply what it was made on top of first, or in the same command."),
    ]:  # fmt: skip
        with pytest.raises(LedgerError) as refused:
            ledger.apply(given)
        assert refused.value.hint == remedy + FORCING


def test_forcing_is_offered_only_for_weights_that_the_model_has(
    ledger: Ledger, patches: list[Patch]
) -> None:
    [(name, change)] = _other_model(patches[0], "").delta.changes.items()
    narrow = Dense(torch.ones(3, 4))
    for changes in ({"transformer.h.9.mlp.c_proj.weight": change}, {name: narrow}):
        delta = dataclasses.replace(_other_model(patches[0], "").delta, changes=changes)
        with pytest.raises(LedgerError, match="was made on another model") as refused:
            ledger.apply(delta)
        assert refused.value.hint == "Use a ledger of the model that it was made on."


def test_a_ledger_with_reverted_patches_alone_names_them(
    ledger: Ledger, base: Path, tmp_path: Path
) -> None:
    ledger.revert([1, 2])
    listed = "'editkit patch list --ledger DIR' lists them."
    with pytest.raises(LedgerError, match="patch 9 is not in the ledger") as missing:
        ledger.revert(9)
    assert missing.value.hint == (
        f"There is nothing to revert: patches 1, 2, 3 are reverted already; {listed}"
    )
    with pytest.raises(LedgerError) as missing:
        Ledger(tmp_path / "new", model=base).revert(9)
    assert missing.value.hint == "Apply one first: there is no patch to name."


def test_edits_that_no_folder_can_hold_are_refused_even_if_forced(
    ledger: Ledger, patches: list[Patch]
) -> None:
    with pytest.raises(LedgerError, match="puts texts before prompts"):
        ledger.apply(_with_context(patches[0], ""), force=True)
    nothing = Patch(dataclasses.replace(patches[0].delta, changes={}))
    with pytest.raises(LedgerError, match="changes no weight"):
        ledger.apply(nothing, force=True)
    misfit = Patch(dataclasses.replace(patches[5].delta, changes={"lm_head.bias": _bias()}))
    before = contents(ledger.folder)
    with pytest.raises(DeltaError, match=r"lm_head\.bias"):
        ledger.apply(misfit, force=True)
    assert contents(ledger.folder) == before


def _bias() -> object:
    from editkit import Dense

    return Dense(torch.ones(3))


def test_patches_that_react_to_similar_inputs_are_named(
    ledger: Ledger, patches: list[Patch], caplog: pytest.LogCaptureFixture
) -> None:
    change = patches[0].delta.changes
    similar = {name: dataclasses.replace(each, right=-each.right) for name, each in change.items()}  # type: ignore[type-var,attr-defined]
    other = patch_for(ledger.base.fingerprint, 6)
    ledger.apply(Patch(dataclasses.replace(other.delta, changes=similar)))
    [warning] = caplog.messages
    assert "overlap 1.00" in warning
    assert "patch 1 (Paris is in the country of Land 0)" in warning


@pytest.mark.parametrize("wrong", ["missing.safetensors", 3.5, object()])
def test_what_is_not_a_patch_is_refused(ledger: Ledger, wrong: object) -> None:
    with pytest.raises((LedgerError, DeltaError), match=r"missing\.safetensors|expected a patch"):
        ledger.apply([wrong])  # type: ignore[list-item]


# ---------------------------------------------------------------- the model, other folders


def test_another_model_is_refused(ledger: Ledger, patches: list[Patch], tmp_path: Path) -> None:
    other = save_tiny(tmp_path / "other", seed=1)
    with pytest.raises(LedgerError, match=r"is for '.*tiny' \(.{12}\), and '.*other' is another"):
        Ledger(ledger.folder, model=other)
    assert Ledger(ledger.folder, model=ledger.base.path).base == ledger.base
    with pytest.raises(LedgerError, match="is a ledger already"):
        Ledger.create(ledger.folder, ledger.base.path, patches[3])


def test_a_folder_with_other_things_is_not_touched(base: Path, tmp_path: Path) -> None:
    with pytest.raises(LedgerError, match=r"is not a ledger: it has no ledger\.json"):
        Ledger(tmp_path)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.tex").write_text("...", encoding="utf-8")
    with pytest.raises(LedgerError, match=r"it has 'thesis\.tex'"):
        Ledger(mine, model=base)
    assert [path.name for path in mine.iterdir() if path.name != ".lock"] == ["thesis.tex"]
    with pytest.raises(LedgerError, match="inside the model's own folder"):
        Ledger(base / "ledger", model=base)
    with pytest.raises(LedgerError, match="is a file"):
        Ledger(mine / "thesis.tex", model=base)
    with pytest.raises(ModelError, match="does not exist"):
        Ledger(tmp_path / "new", model=tmp_path / "nowhere")
    assert not (tmp_path / "new").exists()


def test_a_moved_base_model_is_reported_and_its_new_place_remembered(
    ledger: Ledger, patches: list[Patch], base: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    ledger = Ledger.create(tmp_path / "new", own, patches[0])
    own.rename(tmp_path / "elsewhere")
    assert ledger.model.is_dir()  # what is served needs no base model
    with pytest.raises(LedgerError, match=r"is not in '.*own' any more.*--model"):
        ledger.apply(patches[1])
    assert [p for p in ledger.check() if "any more" in p]
    Ledger(ledger.folder, model=tmp_path / "elsewhere").apply(patches[1])
    assert ledger.base.path == str(tmp_path / "elsewhere")
    assert ledger.check() == []
    shutil.copytree(tmp_path / "elsewhere", own)
    (tmp_path / "elsewhere" / "config.json").unlink()
    Ledger(ledger.folder, model=own).revert(1)  # a whole copy, while the old one is damaged
    assert ledger.base.path == str(own)


def test_new_files_beside_the_base_model_do_not_count(
    patches: list[Patch], base: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(base, tmp_path / "own")
    ledger = Ledger(tmp_path / "ledger", model=own)
    before = served(ledger)
    (own / "notes.txt").write_text("mine", encoding="utf-8")
    ledger.apply(patches[0])
    assert not (ledger.model / "notes.txt").exists()
    ledger.revert(1)
    assert served(ledger) == before


# ---------------------------------------------------------------- several processes


def test_readers_see_whole_states_while_others_write(ledger: Ledger, patches: list[Patch]) -> None:
    allowed = {(1, 2), (1, 2, 4), (2, 4), (2,)}
    seen: set[tuple[int, ...]] = set()
    problems: list[BaseException] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set():
            try:
                state = ledger._files.read()
                numbers = tuple(sorted(entry.number for entry in state.applied))
                assert numbers in allowed
                seen.add(numbers)
            except BaseException as error:
                problems.append(error)
                return

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for _ in range(2):
        ledger.apply(patches[4])
        ledger.revert(1)
        ledger.revert(4)
        allowed.add((1, 2))
        ledger.apply(patches[0])
    done.set()
    for reader in readers:
        reader.join()
    assert problems == []
    assert len(seen) > 1


def test_writers_wait_for_each_other(ledger: Ledger, patches: list[Patch]) -> None:
    errors: list[BaseException] = []

    def act(patch: Patch) -> None:
        try:
            Ledger(ledger.folder).apply(patch)
        except BaseException as error:
            errors.append(error)

    writers = [threading.Thread(target=act, args=(patch,)) for patch in patches[4:8]]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert len(ledger.applied) == 6
    assert ledger.check() == []
    everything = stack([patches[i].delta for i in (0, 1, 4, 5, 6, 7)])
    _check_values(ledger, load_model(ledger.base.path), [everything])
    [link] = ledger.folder.glob("model*")
    assert link == ledger.link
    assert len(list((ledger.folder / "versions").iterdir())) == 2
    read_safetensors(ledger.model / "model.safetensors")
