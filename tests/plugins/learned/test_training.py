"""Training learns, resumes to the same weights, and survives values that are not finite."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from editkit import CacheError, ConfigError, DatasetError, DeltaError, EditRequest, load_model
from editkit.storage import checkpoints
from editkit_plugins.learned import trained
from editkit_plugins.learned.config import MendConfig
from editkit_plugins.learned.editor import MendEditor
from editkit_plugins.learned.mend import MendNetwork
from editkit_plugins.learned.trained import FILE, load_trained, read_editor_file
from editkit_plugins.learned.training import trainer
from editkit_plugins.learned.training.cached_blocks import CachedLowerBlocks
from editkit_plugins.learned.training.data import TextSource, flat_records
from editkit_plugins.learned.training.objective import losses
from tests.plugins.learned.samples import BOTH, MEND, editor_of, records, training
from tests.tiny import SENTENCES, tiny

REQUESTS = [record.request for record in records(4)]


class Killed(Exception):
    pass


def trained_tensors(folder: Path) -> dict[str, torch.Tensor]:
    return read_editor_file(folder)[1]


@pytest.mark.parametrize("kind", BOTH)
def test_training_leaves_the_model_and_learns(kind: str, tmp_path: Path) -> None:
    model = tiny()
    before = model.weights_digest()
    settings = BOTH[kind].model_copy(update={"steps": 60, "validate_every": 20})
    run = training(model, settings, tmp_path)
    start = {name: p.detach().clone() for name, p in run.network.named_parameters()}
    progress = run.run()
    assert model.weights_digest() == before
    assert progress.history[-1]["train_edit"] < progress.history[0]["train_edit"]
    moved = {n for n, p in run.network.named_parameters() if not torch.equal(p, start[n])}
    assert moved == set(start)  # the learned rates among them, which never moved as published


@pytest.mark.parametrize("kind", BOTH)
@pytest.mark.parametrize("end", [1, 3, 4])
def test_an_interrupted_training_resumes_to_the_same_weights(
    kind: str, end: int, tmp_path: Path
) -> None:
    model = tiny()
    training(model, BOTH[kind], tmp_path / "whole").run()

    def stop(progress: trainer.Progress) -> None:
        if progress.step == end:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        training(model, BOTH[kind], tmp_path / "parts").run(stop)
    assert not (tmp_path / "parts" / FILE).exists()
    second = training(model, BOTH[kind], tmp_path / "parts")
    assert second.resume()
    assert second.progress.step == end
    second.run()
    whole, parts = trained_tensors(tmp_path / "whole"), trained_tensors(tmp_path / "parts")
    assert whole.keys() == parts.keys()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_finished_training_is_not_repeated(tmp_path: Path) -> None:
    model = tiny()
    first = training(model, MEND, tmp_path)
    first.run()
    again = training(model, MEND, tmp_path)
    assert again.resume()
    assert again.finished
    assert again.run().history == first.progress.history


def test_steps_that_are_not_finite_are_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    run = training(model, MEND, tmp_path)
    states: list[dict[str, torch.Tensor]] = []

    def broken(*args: Any, **options: Any) -> Any:
        result = losses(*args, **options)
        if run.progress.step in (1, 2):
            return type(result)(result.edit * torch.nan, result.locality)
        return result

    def keep(_: trainer.Progress) -> None:
        states.append({n: t.clone() for n, t in run.network.state_dict().items()})

    monkeypatch.setattr(trainer, "losses", broken)
    progress = run.run(keep)
    assert progress.skipped == 2
    assert progress.step == MEND.steps
    assert all(torch.equal(states[0][name], states[2][name]) for name in states[0])
    assert not all(torch.equal(states[2][name], states[3][name]) for name in states[0])
    assert read_editor_file(tmp_path)[0]["skipped_steps"] == 2


def test_training_ends_early_without_improvement(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worse: Iterator[int] = iter(range(100, 0, -1))

    def scores(*_: Any, **__: Any) -> dict[str, float]:
        return {"edit": 1.0, "locality": 0.0, "S": next(worse) / 100}

    monkeypatch.setattr(trainer, "validate", scores)
    settings = MEND.model_copy(update={"steps": 50, "validate_every": 1, "patience": 4})
    progress = training(tiny(), settings, tmp_path).run()
    assert progress.step == 5
    assert progress.best == 0


@pytest.mark.parametrize("kind", BOTH)
def test_a_reloaded_editor_gives_bit_equal_deltas(kind: str, tmp_path: Path) -> None:
    model = tiny()
    training(model, BOTH[kind], tmp_path).run()
    first = editor_of(kind, tmp_path).edit(model, REQUESTS)
    again = editor_of(kind, tmp_path)
    again.edit(model, REQUESTS[2:])  # edits before must not matter
    second = again.edit(model, REQUESTS)
    for one, other in zip(first, second, strict=True):
        assert one.is_finite()
        for name, change in one.changes.items():
            assert all(
                torch.equal(t, other.changes[name].tensors()[field])
                for field, t in change.tensors().items()
            )


@pytest.mark.parametrize("kind", BOTH)
def test_scale_multiplies_the_change_of_a_trained_editor(kind: str, tmp_path: Path) -> None:
    model = tiny()
    training(model, BOTH[kind], tmp_path).run()
    trained_editor = editor_of(kind, tmp_path)
    [once] = trained_editor.edit(model, REQUESTS[:1])
    config = trained_editor.config.model_copy(update={"scale": 2.5})
    [scaled] = type(trained_editor)(config).edit(model, REQUESTS[:1])
    for name, change in once.changes.items():
        torch.testing.assert_close(scaled.changes[name].dense(), 2.5 * change.dense())


def test_mend_descends_by_default_and_ascends_with_sign_plus() -> None:
    model = tiny()
    source = training(model, MEND, Path()).source
    drawn = source.held_out(3, 2)
    below = CachedLowerBlocks(model, 2)
    result = {}
    for sign in ("minus", "plus"):
        run = training(model, MEND.model_copy(update={"sign": sign, "initial_rate": 1e-5}), Path())
        assert isinstance(run.network, MendNetwork)
        with torch.no_grad():
            result[sign] = float(losses(below, run.network, drawn).edit)
            run.network.rates.zero_()
            result["none"] = float(losses(below, run.network, drawn).edit)
    assert result["minus"] < result["none"] < result["plus"]


def test_mend_deltas_have_low_rank_and_can_be_joint(tmp_path: Path) -> None:
    model = tiny()
    training(model, MEND, tmp_path).run()
    [delta] = editor_of("mend", tmp_path).edit(model, REQUESTS[:1])
    [completion] = model.complete([REQUESTS[0].sentence], [REQUESTS[0].target_new])
    tokens = len(completion.prompt) + len(completion.target) - 1
    ranks = {change.left.shape[1] for change in delta.changes.values()}
    assert max(ranks) == tokens
    assert min(ranks) == len(completion.target)  # only what is predicted reaches the last MLP
    editor = MendEditor(MendConfig(trained=str(tmp_path)))
    assert editor.edit_jointly(model, REQUESTS[:1]).digest() == delta.digest()
    joint = editor.edit_jointly(model, REQUESTS)
    assert joint.requests == tuple(REQUESTS)
    in_parts = MendEditor(MendConfig(trained=str(tmp_path), edits_per_pass=3))
    parts = in_parts.edit_jointly(model, REQUESTS)
    assert parts.notes["loss_before"] == pytest.approx(joint.notes["loss_before"])
    for name, change in joint.changes.items():
        torch.testing.assert_close(
            parts.changes[name].dense(), change.dense(), rtol=1e-4, atol=1e-8
        )


# ---------------------------------------------------------------- bad input


def test_an_untrained_editor_is_reported_by_check(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    with pytest.raises(ConfigError, match="has not been trained for tiny-gpt2") as caught:
        MendEditor(MendConfig()).check(tiny())
    assert "save_pretrained to a FOLDER. Run 'editkit train mend --model FOLDER" in str(
        caught.value
    )


def test_hints_name_the_model_as_the_user_typed_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDITKIT_CACHE", str(tmp_path))
    folder = tmp_path / "my models" / "tiny"
    model = tiny()
    model.hf.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    model = load_model(str(folder))
    assert (model.name, model.argument) == ("tiny", f"'{folder}'")
    with pytest.raises(ConfigError, match="has not been trained for tiny") as caught:
        MendEditor(MendConfig()).check(model)
    assert f"'editkit train mend --model '{folder}' --dataset" in str(caught.value.hint)
    training(tiny(seed=1), MEND, tmp_path / "other").run()
    with pytest.raises(DeltaError) as caught:
        editor_of("mend", tmp_path / "other").check(model)
    assert f"--model '{folder}' --dataset" in str(caught.value.hint)


def test_an_editor_of_another_model_is_refused(tmp_path: Path) -> None:
    training(tiny(), MEND, tmp_path).run()
    with pytest.raises(DeltaError, match="was trained on tiny"):
        editor_of("mend", tmp_path).check(tiny(seed=1))


def test_a_truncated_editor_or_checkpoint_is_refused(tmp_path: Path) -> None:
    model = tiny()
    training(model, MEND, tmp_path).run()
    for name in (FILE, trainer.CHECKPOINT_FILE):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ConfigError, match="is damaged"):
        load_trained(tmp_path, model)
    with pytest.raises(ConfigError, match=r"is damaged.*--fresh"):
        training(model, MEND, tmp_path).resume()


def test_a_checkpoint_with_other_settings_is_refused(tmp_path: Path) -> None:
    model = tiny()
    training(model, MEND, tmp_path).run()
    with pytest.raises(ConfigError, match="a different settings"):
        training(model, MEND.model_copy(update={"lr": 0.5}), tmp_path).resume()
    with pytest.raises(ConfigError, match="a different data_digest"):
        training(model, MEND, tmp_path, data_digest="1").resume()


def test_a_full_disk_keeps_the_earlier_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny()
    run = training(model, MEND, tmp_path)

    def full(path: Path, content: bytes) -> None:
        raise OSError(28, "No space left on device")

    def fill_up(progress: trainer.Progress) -> None:
        if progress.step == 3:
            monkeypatch.setattr(checkpoints, "write_atomically", full)

    with pytest.raises(CacheError, match="No space left"):
        run.run(fill_up)
    monkeypatch.undo()
    again = training(model, MEND, tmp_path)
    assert again.resume()
    assert again.progress.step == 3
    monkeypatch.setattr(trained, "write_atomically", full)
    with pytest.raises(CacheError, match=r"No space left.*does not repeat the training"):
        again.run()
    assert training(model, MEND, tmp_path).resume()


def test_records_without_rephrased_prompts_are_refused(tmp_path: Path) -> None:
    from editkit_plugins.learned.training.data import RecordSource

    request = EditRequest("{} is in", "Rome", "Paris", "Italy")
    bare = [type(r)(r.case_id, request) for r in records()]
    with pytest.raises(DatasetError, match=r"case \d+ has no paraphrase prompt"):
        RecordSource(tiny(), bare, 0.2)
    with pytest.raises(DatasetError, match="1 records cannot be split"):
        RecordSource(tiny(), records(1), 0.2)


# ---------------------------------------------------------------- other data


def test_plain_text_trains_continuations(tmp_path: Path) -> None:
    model = tiny()
    source = TextSource(model, [*SENTENCES, *(s[::-1] for s in SENTENCES)], 0.3)
    run = training(model, MEND, tmp_path)
    run.source = source
    progress = run.run()
    assert "S" not in progress.history[0]
    assert progress.best is not None
    assert source.held_out(4, 2) == source.held_out(4, 2)
    with pytest.raises(DatasetError, match="2 texts of at least"):
        TextSource(model, SENTENCES[:2], 0.3)


def test_the_papers_flat_files(test_data: Path) -> None:
    for name, n in (("counterfact_flat_train.json", 9000), ("zsre_mend_train.json", 990)):
        result = flat_records(test_data / "data" / name)
        assert len(result) >= n
        for record in result:
            assert record.request.subject in record.request.sentence
            assert record.probes["paraphrase"]
            assert record.probes["neighborhood"][0].target_true


@pytest.mark.parametrize("content", ["", "[]", "{}", json.dumps([{"prompt": "x"}]), "[3]"])
def test_flat_files_without_usable_entries_are_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "flat.json").write_text(content, encoding="utf-8")
    with pytest.raises(DatasetError, match=r"flat\.json"):
        flat_records(tmp_path / "flat.json")


def test_an_entry_of_a_flat_file_can_set_separator_and_chat(tmp_path: Path) -> None:
    entry = {"subject": "Rome", "src": "Where is Rome?", "alt": "Spain", "pred": "Italy"}
    entry |= {"rephrase": "Rome is where?", "loc": "who", "loc_ans": "me"}
    entries = [entry, {**entry, "separator": "\n", "chat": True}, {**entry, "chat": "yes"}]
    path = tmp_path / "flat.json"
    path.write_text(json.dumps(entries), encoding="utf-8")
    plain, asked = flat_records(path)
    assert (plain.request.separator, plain.request.chat) == (None, False)
    assert (asked.request.separator, asked.request.chat) == ("\n", True)
    assert all(probe.chat for probes in asked.probes.values() for probe in probes)
