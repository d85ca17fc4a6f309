"""The actions on patches in files."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from editkit import (
    EditRequest,
    LanguageModel,
    LowRank,
    Patch,
    load_delta,
    load_model,
    save_delta,
)
from editkit.patches.content import Answer, Check, Origin, Question
from editkit.patches.measuring import measured
from tests.editkit.patches.made import NAME, low_rank, patch_with
from tests.tiny import tiny

Cli = Callable[..., tuple[int, str, str]]
ROME = EditRequest("{} is in", "Rome", "Seattle", "Italy")
OSLO = EditRequest("{} is in", "Oslo", "Chad", "Norway")
EVIL = "\x1b[2J\u202e\x07evil\nline"


def written(path: Path, seed: int, request: EditRequest, **delta: object) -> Path:
    patch = patch_with({NAME: low_rank(seed)}, request)
    check = Check(
        Question("edit", request.sentence, (request.target_new,)),
        Answer((0.25,), " Italy."),
        Answer((0.75,), f" {request.target_new}."),
    )
    versions = {"editkit": "0.1"}
    origin = Origin(
        "a/model", "main", "gpt2", "float32", "cpu", "2026-01-02T03:04:05", 1.5, versions
    )
    delta = {"editor": "rome", "config": {"layer": 3, "ridge": 0.0, "seed": 0}, **delta}
    changed = dataclasses.replace(patch.delta, **delta)  # type: ignore[arg-type]
    return Patch(changed, origin, (check,)).save(path)


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [written(tmp_path / "a.patch", 0, ROME), written(tmp_path / "b.patch", 1, OSLO)]


# ---------------------------------------------------------------- show


def test_show_has_everything_that_a_patch_is(editkit: Cli, files: list[Path]) -> None:
    code, text, _ = editkit("patch", "show", files[0])
    assert code == 0
    digest = load_delta(files[0]).digest()
    for part in (
        "Rome is in -> Seattle (was Italy)",
        "layer = 3",
        f"{NAME}: layer 0, rank 2 of 6 x 4",
        "a/model, revision main: gpt2, float32 on cpu",
        "weights base",
        "2026-01-02T03:04:05, in 1.5 s",
        "editkit 0.1",
        f"{files[0].stat().st_size:,} bytes, edit {digest}",
        "75",
    ):
        assert part in text, part
    assert "seed = 0" not in text  # a default
    assert "seed = 0" in editkit("patch", "show", files[0], "--all")[1]


def test_show_as_data(editkit: Cli, files: list[Path]) -> None:
    code, text, _ = editkit("patch", "show", *files, "--json")
    document = json.loads(text)
    assert (code, document["schema"]) == (0, 1)
    first = document["patches"][0]
    assert first["facts"] == [ROME.to_dict()]
    assert first["settings"] == {"layer": 3, "ridge": 0.0, "seed": 0}
    assert first["origin"]["revision"] == "main"
    assert first["weights"][0]["form"] == "rank 2"
    assert first["checks"][0]["after"]["probabilities"] == [0.75]
    assert document["overlaps"][0][1] == document["overlaps"][1][0] < 1
    assert document["conflicts"] == []


def test_show_of_several_files_has_overlaps_and_conflicts(
    editkit: Cli, files: list[Path], tmp_path: Path
) -> None:
    opposed = written(tmp_path / "c.patch", 0, dataclasses.replace(ROME, target_new="Lima"))
    code, text, _ = editkit("patch", "show", *files, opposed, files[0])
    assert code == 0
    assert "contradiction" not in text.replace("same patch", "")  # equal weights: one conflict
    assert text.count("same patch:") == 3
    assert "1  a.patch" in text
    assert "1.00" in text
    different = written(tmp_path / "d.patch", 5, dataclasses.replace(ROME, target_new="Lima"))
    joined = " ".join(editkit("patch", "show", files[0], different)[1].split())
    assert (
        "contradiction: a.patch and d.patch: 'Rome is in' is to be 'Seattle' and 'Lima'." in joined
    )


def test_a_file_of_save_delta_and_a_stack_are_shown(
    editkit: Cli, files: list[Path], tmp_path: Path
) -> None:
    save_delta(load_delta(files[0]), tmp_path / "plain")
    code, text, _ = editkit("patch", "show", tmp_path / "plain")
    assert code == 0
    assert "not named (a file of save_delta)" in text
    Patch.stack([Patch.load(file) for file in files]).save(tmp_path / "both")
    code, text, _ = editkit("patch", "show", tmp_path / "both")
    assert code == 0
    assert f"rome, edit {load_delta(files[1]).digest()[:12]}: Oslo is in Chad" in text


@pytest.mark.parametrize("action", ["show", "diff"])
def test_texts_of_a_file_cannot_control_the_terminal(
    editkit: Cli, tmp_path: Path, action: str
) -> None:
    request = EditRequest("{} is in", "Rome" + EVIL, "x" + EVIL, "y" + EVIL)
    evil = written(
        tmp_path / "a", 0, request, editor=EVIL, config={EVIL: EVIL}, notes={EVIL: EVIL},
    )  # fmt: skip
    other = written(tmp_path / "b", 0, ROME)
    code, text, message = editkit("patch", action, evil, other)
    assert code == 0, message
    assert not {"\x1b", "\u202e", "\x07"} & set(text)
    assert "evil" in text


def test_missing_and_damaged_files_are_errors(
    editkit: Cli, files: list[Path], tmp_path: Path
) -> None:
    (tmp_path / "cut").write_bytes(files[0].read_bytes()[:-9])
    for action in ("show", "diff", "stack"):
        more = ("--out", tmp_path / "out") if action == "stack" else ()
        for file, message in [("absent", "does not exist"), ("cut", "is damaged")]:
            code, _, error = editkit("patch", action, files[0], tmp_path / file, *more)
            assert code == 2
            assert message in error
    assert not (tmp_path / "out").exists()


def test_what_is_not_a_patch_is_named(editkit: Cli, tmp_path: Path) -> None:
    for name in (
        "exported/editkit.json",
        "adapter/editkit.json",
        "adapter/adapter_config.json",
        "ledger/ledger.json",
    ):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}", encoding="utf-8")
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors")
    (tmp_path / "notes.txt").write_text("this is not a patch", encoding="utf-8")
    for name, message, hint in [
        ("exported", "is a model folder (it has editkit.json), not a patch.", "exported from"),
        ("adapter", "is an adapter folder (it has editkit.json), not a patch.", "exported from"),
        ("ledger", "is a ledger (it has ledger.json), not a patch.", "editkit patch list"),
        ("", "is a folder, expected a patch file.", "'editkit edit --save FILE'"),
        ("model.safetensors", "not an edit of editkit.", "'editkit edit --save FILE'"),
        ("notes.txt", "is damaged, or is not a safetensors file.", "'editkit edit --save FILE'"),
    ]:
        code, _, error = editkit("patch", "show", tmp_path / name)
        assert code == 2
        assert message in error
        assert hint in error
        assert "header" not in error  # the text of the library


# ---------------------------------------------------------------- stack and diff


def test_stack_writes_one_patch_and_refuses_conflicts(
    editkit: Cli, files: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "both.patch"
    code, text, _ = editkit("patch", "stack", *files, "--out", out)
    assert code == 0
    assert "2 facts" in text
    assert "overlap" not in text
    assert "without checks" in text
    assert Patch.load(out).requests == (ROME, OSLO)
    content = out.read_bytes()
    code, _, error = editkit("patch", "stack", *files, "--out", out, "--force")
    assert (code, out.read_bytes()) == (2, content)
    scaled = written(tmp_path / "c.patch", 0, EditRequest("{} borders", "Oslo", "Chad"))
    code, text, _ = editkit("patch", "stack", files[0], scaled, "--out", tmp_path / "d", "--force")
    assert "a.patch and c.patch overlap by 1.00" in " ".join(text.split())
    assert "exists" in error
    code, _, error = editkit("patch", "stack", files[0], out, "--out", tmp_path / "no")
    assert code == 2
    assert "same fact: a.patch and both.patch: both write 'Rome is in Seattle'" in error
    assert not (tmp_path / "no").exists()
    code, _, _ = editkit("patch", "stack", files[0], out, "--out", tmp_path / "no", "--force")
    assert code == 0


def test_diff_shows_both_values(editkit: Cli, files: list[Path]) -> None:
    code, text, _ = editkit("patch", "diff", *files)
    rows = {line.split("  ")[0]: line.split()[1:] for line in text.splitlines()}
    assert code == 0
    assert rows["fact.subject"] == ["Rome", "Oslo"]
    assert "settings.layer" not in rows
    assert "Two edits." in text
    code, text, _ = editkit("patch", "diff", *files, "--json")
    document = json.loads(text)
    assert (document["schema"], document["same_edit"]) == (1, False)
    assert [each["name"] for each in document["differences"]] == [
        "fact.subject", "fact.target_new", "fact.target_true",
    ]  # fmt: skip


def test_diff_names_contradictions_and_other_models(
    editkit: Cli, files: list[Path], tmp_path: Path
) -> None:
    opposed = written(tmp_path / "c.patch", 5, dataclasses.replace(ROME, target_new="Lima"))
    _, text, _ = editkit("patch", "diff", files[0], opposed)
    sentence = "They contradict each other: 'Rome is in' is to be 'Seattle' and 'Lima'."
    assert sentence in " ".join(text.split())
    assert "overlap 0." in text
    twice = written(tmp_path / "d.patch", 6, ROME)
    _, text, _ = editkit("patch", "diff", files[0], twice)
    assert "They both write 'Rome is in Seattle'." in text
    elsewhere = written(tmp_path / "e.patch", 7, ROME, model_fingerprint="other")
    wider = dataclasses.replace(
        load_delta(elsewhere), changes={NAME: low_rank(0, 9, 7)}
    )  # of a larger model
    save_delta(wider, tmp_path / "f.patch")
    for other in (elsewhere, tmp_path / "f.patch"):
        code, text, _ = editkit("patch", "diff", files[0], other)
        assert code == 0
        assert "not comparable: different models" in text
        assert "cosine" not in text
    document = json.loads(editkit("patch", "diff", files[0], elsewhere, "--json")[1])
    assert (document["same_model"], document["cosine"], document["overlap"]) == (False, None, None)
    assert [each["kind"] for each in document["conflicts"]] == ["other model", "same fact"]


@pytest.mark.parametrize("width", [40, 80, 120])
def test_diff_fits_the_terminal(
    files: list[Path], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, width: int
) -> None:
    from editkit.cli.main import main

    long = written(tmp_path / "long.patch", 5, ROME, config={"layers": list(range(99))})
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(width))
    assert main(["patch", "diff", str(files[1]), str(long)]) == 0
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert "Seattle" in "".join(lines)


# ---------------------------------------------------------------- check


@pytest.fixture
def model_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A model in the current folder, where its name alone suffices."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my-gpt2"
    model = tiny()
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    return folder


def measured_patch(
    model: LanguageModel,
    path: Path,
    seed: int,
    request: EditRequest,
    size: float,
    below: Sequence[Path] = (),
) -> Path:
    """A patch with checks that the model answered, made on top of the patches in ``below``."""
    name = f"{model.path(1, 'mlp_out')}.weight"
    d, h = model.hf.get_parameter(name).shape
    change = low_rank(seed, d, h)
    change = LowRank(size * change.left, change.right)
    with contextlib.ExitStack() as stack:
        for each in below:
            stack.enter_context(Patch.load(each).applied(model))
        delta = patch_with({name: change}, request, base=model.fingerprint).delta
        questions = [Question("edit", request.sentence, (request.target_new, "the"))]
        [result] = measured(model, [delta], questions)
    origin = Origin(model.name, None, "gpt2", "float32", "cpu", "2026", 1.0, {})
    return Patch(delta, origin, *result).save(path)


def test_check_asks_the_model_that_the_patch_names(
    editkit: Cli, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    one = measured_patch(model, tmp_path / "one", 0, ROME, 0.1)
    code, text, message = editkit("patch", "check", one)
    assert code == 0, message
    assert text.startswith(f"{one}: same\n")
    patch = Patch.load(one)
    [check] = patch.checks
    other = dataclasses.replace(
        check, after=dataclasses.replace(check.after, probabilities=(0.9, 0))
    )
    Patch(patch.delta, patch.origin, (other,)).save(tmp_path / "false")
    code, text, _ = editkit("patch", "check", one, tmp_path / "false", "--json")
    document = json.loads(text)
    assert (code, document["schema"]) == (1, 1)
    assert [each["ok"] for each in document["patches"]] == [True, False]
    save_delta(load_delta(one), tmp_path / "plain")
    code, _, message = editkit("patch", "check", tmp_path / "plain")
    assert code == 2
    assert "do not name their model" in message
    code, text, _ = editkit("patch", "check", tmp_path / "plain", "--model", model_folder)
    assert code == 0
    assert "plain: no checks" in text


def test_together_shows_which_facts_suffer(
    editkit: Cli, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    small = measured_patch(model, tmp_path / "small", 0, ROME, 0.01)
    large = measured_patch(model, tmp_path / "large", 1, OSLO, 30.0)
    assert editkit("patch", "check", small, large)[0] == 0
    code, text, _ = editkit("patch", "check", small, large, "--together")
    assert code == 1
    assert "small: changed" in text
    assert "large: same" in text
    code, text, _ = editkit("patch", "check", small, large, "--together", "--json")
    document = json.loads(text)
    table = document["interference"]
    assert table[0][1] > 1 > table[1][0]
    assert document["conflicts"] == []


def test_patches_on_top_of_others_are_checked_in_their_order(
    editkit: Cli, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    first = measured_patch(model, tmp_path / "first", 0, ROME, 0.05)
    second = measured_patch(model, tmp_path / "second", 1, OSLO, 0.05, below=[first])
    code, _, message = editkit("patch", "check", first, second, "--together")
    assert code == 0, message
    code, _, message = editkit("patch", "check", second, first, "--together")
    assert code == 2
    code, _, message = editkit("patch", "check", second)
    assert code == 2
    assert "with 1 other edit applied" in message
    assert "with --together" in message
    assert "force" not in message


def test_check_refuses_another_model_and_names_both(
    editkit: Cli, files: list[Path], model_folder: Path
) -> None:
    code, _, message = editkit("patch", "check", files[0], "--model", model_folder)
    assert code == 2
    assert "'a/model, revision main'" in message
    assert "Give the model that it was made on (a/model) with --model." in message
    assert "force" not in message
    code, _, message = editkit(
        "patch", "stack", files[0], "--model", model_folder, "--out", "new.patch", "--force"
    )
    assert code == 2
    assert "with --model." in message
    code, _, message = editkit("patch", "check", files[0])
    assert code == 2
    assert "cannot be loaded here" in message
    assert "--model" in message


def test_a_stack_measured_with_its_model_shows_each_fact(
    editkit: Cli, model_folder: Path, tmp_path: Path
) -> None:
    model = load_model(model_folder)
    files = [
        measured_patch(model, tmp_path / request.subject, seed, request, 0.1)
        for seed, request in enumerate((ROME, OSLO))
    ]
    out = tmp_path / "both"
    code, text, message = editkit("patch", "stack", *files, "--out", out, "--model", model_folder)
    assert code == 0, message
    assert "with 2 checks" in text
    assert editkit("patch", "check", out)[0] == 0
    text = editkit("patch", "show", out)[1]
    assert "The edited prompts: 0 of 2 give the new object" in text
    assert "Oslo is in Chad  " in text
