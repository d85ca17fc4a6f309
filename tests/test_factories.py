from __future__ import annotations

import pytest

from editkit import ConfigError, PluginError, make_dataset, make_editor, make_metric
from tests.tiny import tiny


def test_an_editor_gets_the_values_of_its_model() -> None:
    atlas = make_editor("rome", "atlas").config
    assert atlas.corpus == "editkit_benchmarks.atlas:corpus_texts"
    assert make_editor("rome", "atlas", layer=3).config.layer == 3
    assert make_editor("rome", "some-model").config.corpus.endswith("first-look.txt.gz")
    assert make_editor("rome", "atlas", preset="corrected").config.update_key == "mean"


def test_a_layer_by_rule_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO", logger="editkit"):
        editor = make_editor("attnedit", tiny())  # 4 layers
        assert make_editor("attnedit", tiny(), layer=1).config.layer == 1
    assert editor.config.layer == 2
    [line] = [message for message in caplog.messages if "layer" in message]
    assert line.startswith("attnedit: no file of values for 'tiny-gpt2': layer 2 of 4, two thirds")


def test_wrong_names_and_values_say_so() -> None:
    with pytest.raises(PluginError, match="'rome'"):
        make_editor("roem", "atlas")
    with pytest.raises(ConfigError, match="layer"):
        make_editor("rome", "atlas", layer="two")
    with pytest.raises(ConfigError, match="layer"):
        make_editor("rome", "atlas", layr=2)


def test_datasets_and_metrics_too() -> None:
    assert make_dataset("atlas", split="train").config.split == "train"
    assert make_metric("efficacy").config is not None
