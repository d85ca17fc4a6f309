"""Every shipped plugin keeps the contract that third parties are held to.

Editors are tried with their values for tiny models, ``configs/*/tiny.yaml``. One preset of each
method and one metric of each family run by default; ``pytest -m slow`` runs the others.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from editkit import LanguageModel, ModelError
from editkit.registry.plugins import default_registry
from editkit.testing import (
    Contract,
    DatasetContract,
    EditorContract,
    JudgeContract,
    LocatorContract,
    MetricContract,
    ModelMetricContract,
)
from editkit_plugins.learned.config import trained_folder
from editkit_plugins.learned.mend import Normaliser
from editkit_plugins.learned.settings import KeSettings, MendSettings
from editkit_plugins.learned.trained import Settings, new_network, save_trained
from tests.plugins.consequences.consequences_samples import WITH_TESTS
from tests.plugins.counterfact.counterfact_samples import raw_record
from tests.plugins.judge.fake_endpoint import FakeEndpoint
from tests.plugins.knowedit.knowedit_samples import WITH_QUESTIONS, raw_fact
from tests.plugins.lm_eval.sample_tasks import write_task
from tests.plugins.mquake.mquake_samples import WITH_CHAINS, raw_instance
from tests.plugins.ripple_edits.ripple_samples import WITH_CRITERIA, raw_example
from tests.plugins.zsre.zsre_samples import raw_question

MEND = MendSettings(blocks=2, rank=8, initial_rate=1e-2)
KE = KeSettings(blocks=2, hidden=8, condition=8)


class TestNone(EditorContract):
    plugin = "none"


class TestInContext(EditorContract):
    plugin = "in-context"


class TestRome(EditorContract):
    plugin = "rome"


@pytest.mark.slow
class TestRRome(EditorContract):
    plugin = "r-rome"


class TestMemit(EditorContract):
    plugin = "memit"


@pytest.mark.slow
class TestEmmet(EditorContract):
    plugin = "emmet"


@pytest.mark.slow
class TestAlphaEdit(EditorContract):
    plugin = "alphaedit"


class TestFt(EditorContract):
    plugin = "ft"


@pytest.mark.slow
class TestFtL(EditorContract):
    plugin = "ft+l"


class TestAttnedit(EditorContract):
    plugin = "attnedit"


@pytest.mark.slow
class TestAttneditWithBias(EditorContract):
    plugin = "attnedit"
    config = {"layer": 1, "steps": 4}
    # A key's bias adds the same to all scores of a query: its gradient is rounding noise, which
    # Adam scales up to whole steps. These are 32 of 3,168 entries: 2 sqrt(32 / 3168) of the norm.
    tolerance = 0.2


class TestKn(EditorContract):
    plugin = "kn"


@pytest.mark.slow
class TestUltraEdit(EditorContract):
    plugin = "ultraedit"


@pytest.mark.slow
class TestLora(EditorContract):
    plugin = "lora"


@pytest.mark.slow
class TestFtAll(EditorContract):
    plugin = "ft-all"


@pytest.mark.slow
class TestKnAsPublished(EditorContract):
    plugin = "kn"
    config = {"target_space": False}
    separators = False  # targets are tokenised without the space before them


class Learned(EditorContract):
    """A trained editor, with a network of random weights for each of the tiny models."""

    settings: Settings

    def make_model(self, architecture: str | None = None, **changes: Any) -> LanguageModel:
        model = super().make_model(architecture, **changes)
        network = new_network(model, self.settings)
        tensors = network.state_dict()
        for normaliser in (m for m in network.modules() if isinstance(m, Normaliser)):
            normaliser.count.fill_(8.0)
            normaliser.squares.fill_(1.0)
        facts = {"model_fingerprint": model.fingerprint, "model": model.name}
        save_trained(trained_folder(self.plugin, model.fingerprint), tensors, self.settings, facts)
        return model

    @contextlib.contextmanager
    def fresh_cache(self) -> Iterator[Path]:
        if hasattr(self, "scratch"):
            yield self.scratch  # with the trained networks in it
        else:
            with super().fresh_cache() as folder:
                yield folder


class TestMend(Learned):
    plugin = "mend"
    settings = MEND


@pytest.mark.slow
class TestMendCounterfact(Learned):
    plugin = "mend-cf"
    settings = MEND


@pytest.mark.slow
class TestMendZsre(Learned):
    plugin = "mend-zsre"
    settings = MEND


class TestKe(Learned):
    plugin = "ke"
    settings = KE


@pytest.mark.slow
class TestKeCounterfact(Learned):
    plugin = "ke-cf"
    settings = KE


@pytest.mark.slow
class TestKeZsre(Learned):
    plugin = "ke-zsre"
    settings = KE


class TestKnowledgeNeurons(LocatorContract):
    plugin = "knowledge-neurons"
    config = {"steps": 4}


class TestCausalTracing(LocatorContract):
    plugin = "causal-tracing"
    config = {"samples": 2, "noise_level": 0.5}


class TestSaliency(LocatorContract):
    plugin = "saliency"


class TestIntegratedGradients(LocatorContract):
    plugin = "integrated-gradients"
    config = {"steps": 4}


class TestEfficacy(MetricContract):
    plugin = "efficacy"


@pytest.mark.slow
class TestParaphrase(MetricContract):
    plugin = "paraphrase"


@pytest.mark.slow
class TestNeighborhood(MetricContract):
    plugin = "neighborhood"


@pytest.mark.slow
class TestSameSubject(MetricContract):
    plugin = "same-subject"


@pytest.mark.slow
class TestAttribute(MetricContract):
    plugin = "attribute"


class TestCorrectness(MetricContract):
    plugin = "correctness"


class TestFluency(MetricContract):
    plugin = "fluency"
    config = {"tokens": 24}


@pytest.mark.slow
class TestConsistency(MetricContract):
    plugin = "consistency"
    config = {"tokens": 24}


class TestEssence(MetricContract):
    plugin = "essence"


class TestZsreAccuracy(MetricContract):
    plugin = "zsre"


@pytest.mark.slow
class TestDrawdown(MetricContract):
    plugin = "drawdown"


class TestConsequences(MetricContract):
    plugin = "consequences"
    config = {"tokens": 6, "stop": "tokens"}
    records = WITH_TESTS


class TestKnowEdit(MetricContract):
    plugin = "knowedit"
    records = WITH_QUESTIONS


class TestFree(MetricContract):
    plugin = "free"
    config = {"tokens": 6}
    needs_prompts = False  # an edit is asked at its own prompt


@pytest.mark.slow
class TestFreeChat(MetricContract):
    plugin = "free-chat"
    config = {"tokens": 6}
    needs_prompts = False


@pytest.mark.slow
class TestWild(MetricContract):
    plugin = "wild"
    needs_prompts = False


class TestRippleEdits(MetricContract):
    plugin = "ripple-edits"
    config = {"failed_edits": "counted", "length": "fixed", "extra": 6}
    records = WITH_CRITERIA


class TestShift(MetricContract):
    plugin = "shift"


class TestMQuake(MetricContract):
    plugin = "mquake"
    config = {"tokens": 4}
    records = WITH_CHAINS


class TestPerplexity(ModelMetricContract):
    plugin = "perplexity"
    config = {"texts": 4}


class TestSentencePerplexity(ModelMetricContract):
    plugin = "sentence-perplexity"
    config = {"texts": 4}


class TestDrift(ModelMetricContract):
    plugin = "drift"
    config = {"prompts": 8}


class TestChangeNorm(ModelMetricContract):
    plugin = "change-norm"


class TestDistinct(ModelMetricContract):
    plugin = "distinct-n"
    config = {"prompts": 4, "tokens": 24}


class TestExactJudge(JudgeContract):
    plugin = "exact"


class TestContainedJudge(JudgeContract):
    plugin = "contained"


class TestLmEval(ModelMetricContract):
    plugin = "lm-eval"

    def setup_method(self) -> None:
        super().setup_method()
        self.config = {"tasks": [write_task(self.scratch, "answers")]}

    def test_end_tokens_do_not_matter(self) -> None:
        with pytest.raises(ModelError, match="appends"):  # the harness would score them
            self.work(self.make_model(end=True))


class TestOpenAiJudge(JudgeContract):
    plugin = "openai"

    def setup_method(self) -> None:
        super().setup_method()
        endpoint = self._cleanup.enter_context(FakeEndpoint())
        self.config = {"url": endpoint.url, "model": "small"}


class TestJudged(MetricContract):
    plugin = "judged"
    config = {"tokens": 4}
    needs_prompts = False


class TestAtlas(DatasetContract):
    plugin = "atlas"
    other_config = {"split": "train"}


@pytest.mark.slow
class TestSmolLM2(DatasetContract):
    plugin = "smollm2"
    other_config = {"split": "train"}


@pytest.mark.slow
class TestAtlasZsre(DatasetContract):
    plugin = "atlas-zsre"
    other_config = {"split": "train"}


class Filed(DatasetContract):
    """A dataset that is read from a file."""

    samples: tuple[dict[str, Any], dict[str, Any]]
    broken: dict[str, Any]

    def setup_method(self) -> None:
        super().setup_method()
        self.config = {"path": self._file("whole.json", *self.samples)}
        self.other_config = {"path": self._file("other.json", self.samples[0])}
        self.broken_config = {"path": self._file("broken.json", self.samples[0], self.broken)}
        self.absent_config = {"path": str(self.scratch / "absent.json")}

    def _file(self, name: str, *records: dict[str, Any]) -> str:
        path = self.scratch / name
        path.write_text(json.dumps(records), encoding="utf-8")
        return str(path)


class TestCounterfact(Filed):
    plugin = "counterfact"
    samples = (raw_record(1), raw_record(2))
    broken = {"case_id": 2}


class TestKnowEditRecords(Filed):
    plugin = "knowedit"
    samples = (raw_fact(), raw_fact() | {"locality": {}})
    broken = {"prompt": "The capital of Iceland is"}


class TestMQuakeRecords(Filed):
    plugin = "mquake"
    samples = (raw_instance(1), raw_instance(2))
    broken = {"case_id": 3, "requested_rewrite": []}


class TestRippleEditsRecords(Filed):
    plugin = "ripple-edits"
    samples = (raw_example(), raw_example() | {"Forgetfulness": []})
    broken = {"edit": {}}


class TestZsre(Filed):
    plugin = "zsre"
    samples = (raw_question(), raw_question("Oslo"))
    broken = {"src": "?"}


SUITES = [
    suite for suite in list(globals().values())
    if isinstance(suite, type) and issubclass(suite, Contract) and suite.plugin
]  # fmt: skip


def test_every_shipped_plugin_is_held_to_its_contract() -> None:
    offered = {
        (offer.kind, offer.name)
        for offer in default_registry().offers()
        if offer.source.distribution == "editkit" and hasattr(offer.spec, "factory")
    }
    assert {(suite.kind, suite.plugin) for suite in SUITES} == offered


@pytest.mark.parametrize(
    "suite",
    [
        pytest.param(suite, marks=getattr(suite, "pytestmark", ()))
        for suite in SUITES
        if issubclass(suite, EditorContract) and suite.plugin != "none"
    ],
)
def test_there_is_something_to_hold(suite: type[EditorContract]) -> None:
    """An editor that changes nothing keeps most rules without effort."""
    tried = suite()
    tried.setup_method()
    try:
        deltas = tried.work(tried.make_model())
    finally:
        tried.teardown_method()
    assert all(delta.norm() > 0 or delta.context is not None for delta in deltas)
