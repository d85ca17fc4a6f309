"""Every command in the documentation is valid, down to the fields that it sets.

Commands that need no model are run; the others run until they would load one. Lines with
placeholders (``M``, ``FILE``, ``[flags]``) are checked against their command's flags.
"""

from __future__ import annotations

import argparse
import functools
import json
import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

import pytest

import editkit
from editkit.benchmark.spec import parse_benchmark
from editkit.cli import pools, run_benchmark
from editkit.cli.commands import command_module
from editkit.cli.main import main
from editkit.covariance import bench as statistics_bench
from editkit.errors import UsageError
from editkit.registry import factories, hparams, model_identity, models
from editkit.registry.model_identity import ModelIdentity
from editkit.storage.strict_yaml import parse_yaml
from editkit.workers.ray_pool import RayPool
from editkit_benchmarks.experiments import cli as experiments
from editkit_benchmarks.experiments import tracing
from editkit_benchmarks.experiments.spec import parse_experiment
from editkit_plugins.learned.config import LearnedConfig
from editkit_plugins.lm_eval import tasks as lm_eval_tasks
from editkit_plugins.lm_eval.config import LmEvalConfig
from editkit_plugins.lm_eval.tasks import LoadedTasks
from tests.plugins.knowedit.knowedit_samples import raw_fact
from tests.plugins.mquake.mquake_samples import raw_instance
from tests.plugins.ripple_edits.ripple_samples import raw_example

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
RECORDS = ROOT / "benchmarks" / "atlas" / "records" / "test.json"

_LINE = re.compile(r"^(?:    |\$ )?(editkit [a-z](?:(?! \| )[^\n])*)(?: \| [^\n]*)?$", re.MULTILINE)
_INLINE = re.compile(r"`(editkit [a-z][^`\n]*)`")
_FENCE = re.compile(r"```(\w*)\n(.*?)```", re.DOTALL)
_PLACEHOLDER = re.compile(r"[A-Z][A-Z_]*(\|[A-Z]+)*|.*\.\.\.|\[.*|.*\]|[a-z]+(\|[a-z]+)+")
_OWN = ("./my-gpt2", "my-method", "mine")  # stand for a reader's own
_RUN = ("describe", "explain", "plugins", "new-plugin")
_PREPARED = ("edit", "run-benchmark", "run-experiment", "trace", "train", "statistics")


def commands(*patterns: re.Pattern[str]) -> list[tuple[str, str]]:
    """Pages with their commands; lines that go on are joined."""
    examples = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8").replace("\\\n", " ")
        for pattern in patterns:
            examples += [(str(page.relative_to(ROOT)), each) for each in pattern.findall(text)]
    first = {command: page for page, command in reversed(examples)}  # each once, on its first page
    return [(page, command) for command, page in reversed(first.items())]


def arguments_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)[1:]
    return words[: words.index(">")] if ">" in words else words


def is_example(command: str) -> bool:
    return "$" not in command and not any(
        _PLACEHOLDER.fullmatch(word) for word in arguments_of(command)
    )


COMMANDS = commands(_LINE, _INLINE)
EXAMPLES = [(page, command) for page, command in commands(_LINE) if is_example(command)]


class Reached(UsageError):
    """A command came to where its work would begin."""

    exit_code = 77


def reached(*_: Any, **__: Any) -> NoReturn:
    raise Reached("the work would begin here.")


@functools.cache
def parser_of(name: str) -> argparse.ArgumentParser:
    module: Any = command_module(name)
    parser = argparse.ArgumentParser(prog=name)
    module.configure(parser)
    return parser


def flags_of(parser: argparse.ArgumentParser) -> set[str]:
    """All flags, those of subcommands included."""
    flags = {"--help", "--debug", *parser._option_string_actions}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                flags |= flags_of(inner)
    return flags


@pytest.mark.parametrize(("page", "command"), COMMANDS)
def test_commands_and_flags_exist(page: str, command: str) -> None:
    name, *rest = arguments_of(command)
    flags = flags_of(parser_of(name))
    for flag in re.findall(r"(?<!\S)\[?(--[a-z][a-z-]*)", " ".join(rest)):
        assert flag in flags, f"{page}: {command}"


load_tasks = lm_eval_tasks.load_tasks


def loaded_if_local(config: LmEvalConfig) -> LoadedTasks:
    """Load tasks of lm-evaluation-harness; of hub tasks, check only that they exist."""
    on_the_hub = [task for task in config.tasks if task not in ("capitals.yaml", "atlas_world")]
    if not on_the_hub:
        return load_tasks(config)
    harness = find_spec("lm_eval")
    assert harness is not None
    known = Path(str(harness.origin)).parent / "tasks"
    for task in on_the_hub:
        files = known.glob(f"{task.partition('_')[0]}/{task}.yaml")
        assert any(f"task: {task}\n" in file.read_text(encoding="utf-8") for file in files), task
    return LoadedTasks({}, {}, (), {})


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with the files that a reader would have; no model is loaded."""
    monkeypatch.chdir(tmp_path)
    records = json.loads(RECORDS.read_text(encoding="utf-8"))[:30]
    for name in ("counterfact.json", "my_records.json", "memorised.json", "known.counterfact.json"):
        Path(name).write_text(json.dumps(records), encoding="utf-8")
    rewrites = [record["requested_rewrite"] for record in records]
    known = [
        {
            "prompt": each["prompt"].replace("{}", each["subject"]),
            "subject": each["subject"],
            "attribute": each["target_true"]["str"],
        }
        for each in rewrites
    ]
    for name in ("known_1000.json", "known.prompts.json"):
        Path(name).write_text(json.dumps(known), encoding="utf-8")
    snippets = [
        {
            "relation_id": each["relation_id"],
            "target_id": each["target_new"]["id"],
            "samples": [{"name": "someone", "text": "A text."}],
        }
        for each in rewrites
    ]
    Path("attribute_snippets.json").write_text(json.dumps(snippets), encoding="utf-8")
    reference = {each["relation_id"]: {each["target_new"]["str"]: ["A text."]} for each in rewrites}
    essence = {each["subject"]: ["A text."] for each in rewrites}
    for kind, content in (("reference", reference), ("essence", essence)):
        Path(f"counterfact.{kind}.json").write_text(json.dumps(content), encoding="utf-8")
    zsre = [
        {
            "subject": each["subject"],
            "src": f"What is {each['subject']}?",
            "rephrase": f"And {each['subject']}?",
            "pred": "a",
            "alt": "b",
            "answers": ["c"],
            "loc": "nq question: what",
            "loc_ans": "d",
        }
        for each in rewrites
    ]
    Path("zsre_mend_eval.json").write_text(json.dumps(zsre), encoding="utf-8")
    Path("popular.json").write_text(json.dumps([raw_example()]), encoding="utf-8")
    Path("test_cf.json").write_text(json.dumps([raw_fact()]), encoding="utf-8")
    Path("MQuAKE-CF-3k-v2.json").write_text(json.dumps([raw_instance()]), encoding="utf-8")
    Path("multihop-prompts.txt").write_text("Question: a?\nAnswer: b", encoding="utf-8")
    for text in yaml_blocks("docs/experiments.md"):
        Path("my-sweep.yaml").write_text(text, encoding="utf-8")
        break
    [task] = yaml_blocks("docs/general-ability.md")
    Path("capitals.yaml").write_text(task, encoding="utf-8")
    document = {"country": "Kenya", "capital": "Nairobi", "others": ["Paris"]}
    Path("capitals.jsonl").write_text(json.dumps(document), encoding="utf-8")
    monkeypatch.setattr(lm_eval_tasks, "load_tasks", loaded_if_local)
    monkeypatch.setattr(editkit, "load_model", reached)
    monkeypatch.setattr(models, "load_model", reached)
    monkeypatch.setattr(statistics_bench, "load_model", reached)
    for module in (run_benchmark, experiments):
        monkeypatch.setattr(module, "run_plan", reached)
    monkeypatch.setattr(run_benchmark, "diagnosis_of", reached)
    monkeypatch.setattr(LearnedConfig, "check_for", lambda *_: None)  # as if all were trained
    monkeypatch.setattr(models, "fingerprint_of", lambda name, **_: "0" * 32)
    for module in (models, factories):
        monkeypatch.setattr(module, "n_layers_of", lambda name, **_: 48)
    for module in (model_identity, hparams):
        monkeypatch.setattr(module, "identity_of", lambda name, **_: ModelIdentity(name))
    monkeypatch.setattr(tracing, "trace_all", reached)
    monkeypatch.setattr(pools, "_check_gpus", lambda *_: None)  # as if there were enough
    monkeypatch.setattr(RayPool, "opened", reached)


@pytest.mark.usefixtures("files")
@pytest.mark.parametrize(("page", "command"), EXAMPLES)
def test_examples_are_understood(page: str, command: str) -> None:
    name, *rest = arguments_of(command)
    parser_of(name).parse_args(rest)
    if any(part in _OWN or "=auto" in part for word in rest for part in word.split(",")):
        return  # auto: a layer that is looked for by tracing
    if name in _PREPARED:
        listing = name == "run-experiment" and not rest
        assert main([name, *rest]) == (0 if listing else Reached.exit_code), f"{page}: {command}"
    elif name in _RUN or rest[:1] == ["facts"]:
        assert main([name, *rest]) == 0, f"{page}: {command}"


def test_there_are_examples_to_check() -> None:
    pages = {page for page, _ in EXAMPLES}
    assert len(EXAMPLES) >= 25
    assert {"README.md", "docs/experiments.md", "docs/locators.md", "docs/cli.md"} <= pages


# ---------------------------------------------------------------- YAML


def yaml_blocks(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for language, block in _FENCE.findall(text) if language == "yaml"]


BLOCKS = [
    (str(page.relative_to(ROOT)), block)
    for page in PAGES
    for block in yaml_blocks(str(page.relative_to(ROOT)))
]


@pytest.mark.parametrize(("page", "block"), BLOCKS, ids=lambda text: text[:40])
def test_documented_files_are_understood(page: str, block: str) -> None:
    content = parse_yaml(block, place=page)
    if isinstance(content, dict) and "summary" in content:
        parse_experiment(block, place=page).to_benchmark(lambda _: 6)
    elif isinstance(content, dict) and {"name", "model", "dataset"} <= content.keys():
        parse_benchmark(block, place=page)
