"""The published tables that we ship, and what our rules for clear failures make of them."""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path

import pytest

from editkit.benchmark.aggregate import Estimate, harmonic_mean
from editkit.benchmark.published import (
    Published,
    published_for,
    published_numbers,
    published_tables,
)
from editkit.cli.main import main
from editkit.registry.plugins import default_registry
from editkit.report.sections import is_failure
from editkit.results import Run
from editkit_plugins.counterfact import editkit_metrics
from tests.editkit.benchmark.fakes import ROOT

METRICS = editkit_metrics()
SCORES = tuple(score for metric in METRICS for score in metric.scores)
RUN = Run(
    out=Path("out"),
    benchmark="counterfact",
    model={"name": "openai-community/gpt2-xl", "fingerprint": "f", "dtype": "float32"},
    dataset={"name": "counterfact", "digest": "d", "n_records": 1},
    metrics=tuple({"name": metric.name, "protocol": metric.protocol} for metric in METRICS),
    scores=SCORES,
    seeds=(0,),
    cells=(),
    batch=1,
)
FAILURES = {
    "openai-community/gpt2-xl": {
        "ft": "NS NM", "ft+l": "PS PM", "kn": "PS PM", "ke": "NS NM", "ke-cf": "NS NM",
        "mend": "PS PM NS NM", "mend-cf": "NS NM", "rome": "",
    },
    "EleutherAI/gpt-j-6B": {"ft": "NS NM", "ft+l": "PS PM", "mend": "PS PM NS NM", "rome": ""},
}  # fmt: skip


def published(model: str) -> Published:
    """The table of the final paper."""
    run = dataclasses.replace(RUN, model={**RUN.model, "name": model})
    final, *others = published_for(run, default_registry())
    assert final.label == "published"
    assert all(other.label == "first version" for other in others)
    return final


@pytest.mark.parametrize("model", FAILURES)
def test_the_rules_mark_the_clear_failures_of_the_papers(model: str) -> None:
    rows = {
        editor: {key: Estimate(each.mean, each.mean, each.mean, 0) for key, each in row.items()}
        for editor, row in published(model).rows.items()
    }
    failures = {
        editor: " ".join(score.label for score in SCORES if is_failure(score, row, rows["none"]))
        for editor, row in rows.items()
        if editor != "none"
    }
    assert failures == FAILURES[model]


@pytest.mark.parametrize("model", ["gpt2-xl", "gpt-j-6B", "gpt2-medium", "gpt2-large"])
def test_published_summaries_are_the_harmonic_means_of_their_rows(model: str) -> None:
    for editor, row in published(model).rows.items():
        parts = [row[score.key].mean for score in SCORES if score.summary]
        # Rows are printed with one digit.
        assert row["summary/score"].mean == pytest.approx(harmonic_mean(parts), abs=0.0015), editor


def test_columns_that_a_run_does_not_measure_are_left_out() -> None:
    assert "fluency/entropy" not in published("gpt2-xl").rows["rome"]
    metrics = (*RUN.metrics, {"name": "fluency", "protocol": "counterfact/ngram-entropy/x/v1"})
    run = dataclasses.replace(RUN, metrics=metrics)
    table, first = published_for(run, default_registry())
    assert table.rows["rome"]["fluency/entropy"].mean == pytest.approx(6.219)
    assert first.rows["rome"]["fluency/entropy"].interval == pytest.approx((6.251, 6.261))


def test_zsre_is_published_for_three_models() -> None:
    metrics = ({"name": "zsre", "protocol": "zsre/teacher-forced-argmax/v1"},)
    specificity = {}
    for model in ("gpt2-xl", "gpt2-medium", "gpt2-large", "gpt-j-6b"):
        run = dataclasses.replace(
            RUN,
            model={**RUN.model, "name": model},
            dataset={**RUN.dataset, "name": "zsre"},
            metrics=metrics,
        )
        for table in published_for(run, default_registry()):
            assert table.n_records == 10000
            specificity[model] = table.rows["rome"]["zsre/specificity"].mean
    assert specificity == pytest.approx(
        {"gpt2-xl": 0.242, "gpt2-medium": 0.213, "gpt2-large": 0.225}
    )


def test_a_folder_with_the_name_of_a_published_model_is_not_that_model() -> None:
    """The name of a local model is that of its folder."""
    for n_parameters, n_tables in [(1_557_611_200, 2), (1_557_612_800, 2), (1_590_272, 0)]:
        model = {**RUN.model, "name": "gpt2-xl", "n_parameters": n_parameters}
        run = dataclasses.replace(RUN, model=model)
        assert len(published_for(run, default_registry())) == n_tables


# ---------------------------------------------------------------- against the texts

PAPERS = ROOT / os.environ.get("EDITKIT_TEST_DATA", "../shared") / "papers"
EDITOR = re.compile(
    r"(GPT-2 XL|GPT-2 M|GPT-2 L|GPT-J|FT\+L|FT|KN|KE-CF|KE-zsRE|KE|MEND-CF|MEND|ROME)[ \t]+(-?\d.*)"
)
MODELS = {
    "GPT-2 XL": "gpt2-xl", "GPT-J": "gpt-j-6b", "GPT-2 M": "gpt2-medium", "GPT-2 L": "gpt2-large"
}  # fmt: skip
DATA = {10: "counterfact-v1", 9: "counterfact", 3: "zsre"}  # by number of means
Numbers = dict[tuple[str, str, str], list[str]]


def printed_in(text: str) -> Numbers:
    """The rows of a text's tables: the numbers by dataset, model and editor."""
    rows: Numbers = {}
    model = ""
    for line in text.splitlines():
        match = EDITOR.match(re.sub(r"</?b>|\*\*|\$|\\pm", "", line.strip()))
        if match is None:
            continue
        model = MODELS.get(match[1], model)
        editor = "none" if match[1] in MODELS else match[1].lower()
        numbers = re.findall(r"-?\d+\.\d+", match[2])
        n_means = 9 if len(numbers) == 17 else len(numbers) // 2  # S has no interval
        dataset = DATA.get(9 if len(numbers) == 17 else 10 if n_means == 9 else n_means, "")
        rows[dataset, model, editor] = numbers
    return rows


def ours() -> Numbers:
    """The same of our files."""
    rows: Numbers = {}
    for table in published_tables(default_registry()):
        dataset = table.name.removeprefix("rome-2022-")
        for editor, row in table.rows.items():
            numbers = []
            for key, each in row.items():
                scale = 1 if key == "essence/perplexity" else 100
                numbers.append(f"{scale * each.mean:.1f}")
                numbers += [] if each.half_width is None else [f"{scale * each.half_width:.1f}"]
            rows[dataset, table.model, editor] = numbers
    return rows


@pytest.mark.skipif(
    not PAPERS.is_dir(), reason=f"no papers at {PAPERS}: EDITKIT_TEST_DATA names their folder"
)
def test_every_number_is_the_one_in_the_texts() -> None:
    known, seen = ours(), set()
    for text in sorted(PAPERS.glob("*.txt")):
        for place, numbers in printed_in(text.read_text(encoding="utf-8")).items():
            dataset, model, editor = place
            if dataset == "zsre":  # the submission's table calls MEND-zsRE MEND-CF
                editor = editor.replace("-cf", "-zsre")
            assert known[dataset, model, editor] == numbers, (text.name, place)
            seen.add((dataset, model, editor))
    assert seen == set(known)
    single = published_numbers(default_registry())
    texts = " ".join(path.read_text(encoding="utf-8") for path in PAPERS.glob("*.txt"))
    for number in single:
        value = number.value.partition(" ")[0]
        assert re.search(rf"(?<![\d.]){re.escape(value)}(?![\d]|\.\d)", texts), number


def test_the_page_of_published_tables_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str],
) -> None:
    page = (ROOT / "docs" / "reproduce" / "published.md").read_text(encoding="utf-8")
    sections = re.findall(r"<!-- published: (.*?) -->\n\n(.*?)\n<!-- end -->", page, re.DOTALL)
    assert {name for name, _ in sections} == set(default_registry().names("published_table"))
    for name, shown in sections:
        assert main(["published", name, "--format", "markdown"]) == 0
        assert capsys.readouterr().out == shown


def test_the_page_has_todays_published_numbers_beside_ours() -> None:
    page = (ROOT / "docs" / "reproduce" / "published.md").read_text(encoding="utf-8")
    tables = {
        table.name: table
        for table in published_tables(default_registry())
        if table.model == "gpt2-xl"
    }
    sections = re.findall(r"<!-- beside: (\S+) \S+ -->\n(.*?)<!-- end -->", page, re.DOTALL)
    assert [name for name, _ in sections] == ["rome-2022-counterfact", "rome-2022-zsre"]
    for name, shown in sections:
        rows = re.findall(r"^\| (\S+) \|.*\n\| \*published\* (\|.*)$", shown, re.MULTILINE)
        assert len(rows) > 3
        for editor, cells in rows:
            numbers = [float(cell) for cell in re.findall(r"\*([+-]?\d+\.\d+)", cells)]
            row = tables[name].rows[editor]
            assert numbers == [pytest.approx(100 * each.mean) for each in row.values()], editor
