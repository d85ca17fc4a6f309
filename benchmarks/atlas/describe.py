"""Counts of the embedded world: subjects, facts, records and tokens."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from .records import SPLITS
from .world import load_world


def describe(model_folder: Path, records_folder: Path) -> dict[str, Any]:
    """Count subjects, facts, records and tokens.

    Args:
        model_folder: Folder with the tokenizer; if it has none, tokens are not counted.
        records_folder: Folder with the records; missing files are skipped.

    Returns:
        Counts as plain data.
    """
    world = load_world()
    facts = list(world.all_facts())
    relations = {}
    for key, relation in world.relations.items():
        values = Counter(fact.object for fact in facts if fact.relation == key)
        relations[key] = {
            "name": relation.name,
            "facts": sum(values.values()),
            "objects": len(values),
            "wordings": len(relation.wordings),
        }
    files = [path for name in SPLITS if (path := records_folder / f"{name}.json").is_file()]
    sizes = [len(of_subject) for of_subject in world.facts.values()]
    counts: dict[str, Any] = {
        "subjects": len(world.subjects),
        "facts": len(facts),
        "subjects_by_type": dict(Counter(s.type for s in world.subjects.values()).most_common()),
        "share_of_subjects_with_3_or_more_facts": sum(n >= 3 for n in sizes) / len(sizes),
        "fewest_facts_of_a_subject": min(sizes),
        "relations": relations,
        "records": {path.stem: len(json.loads(path.read_text(encoding="utf-8"))) for path in files},
        "consequences": {path.stem: _tests(path) for path in files},
    }
    if (model_folder / "tokenizer.json").is_file():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(model_folder / "tokenizer.json"))

        def lengths(names: list[str]) -> list[int]:
            encoded = tokenizer.encode_batch([" " + name for name in names])
            return [len(one.ids) for one in encoded]

        objects = lengths(sorted({fact.object for fact in facts}))
        subjects = lengths(list(world.subjects))
        counts["tokens"] = {
            "vocabulary": tokenizer.get_vocab_size(),
            "per_object": dict(sorted(Counter(objects).items())),
            "per_subject": dict(sorted(Counter(subjects).items())),
            "objects_of_several": sum(n > 1 for n in objects) / len(objects),
            "subjects_of_several": sum(n > 1 for n in subjects) / len(subjects),
        }
    weights = model_folder / "model.safetensors"
    if weights.is_file():
        counts["model_megabytes"] = weights.stat().st_size / 1e6
    return counts


def _tests(path: Path) -> dict[str, dict[str, int]]:
    """Tests, and records with some, by group, in a file of records."""
    counts: dict[str, dict[str, int]] = {}
    for record in json.loads(path.read_text(encoding="utf-8")):
        for group, tests in record.get("consequences", {}).items():
            of_group = counts.setdefault(group, {"tests": 0, "records": 0})
            of_group["tests"] += len(tests)
            of_group["records"] += 1
    return dict(sorted(counts.items()))


def as_table(counts: dict[str, Any]) -> str:
    """The counts of :func:`describe` as text."""
    lines = [
        f"subjects {counts['subjects']}, facts {counts['facts']}, "
        f"relations {len(counts['relations'])}",
        f"fewest facts of a subject {counts['fewest_facts_of_a_subject']}; "
        f"{counts['share_of_subjects_with_3_or_more_facts']:.0%} of subjects have 3 or more",
        "subjects: " + ", ".join(f"{k} {n}" for k, n in counts["subjects_by_type"].items()),
        "records: " + (", ".join(f"{k} {n}" for k, n in counts["records"].items()) or "none built"),
    ]
    for split, groups in counts["consequences"].items():
        tests = ", ".join(f"{k} {n['tests']} in {n['records']}" for k, n in groups.items())
        lines.append(f"tests of consequences in {split} records: {tests}")
    if "tokens" in counts:
        tokens = counts["tokens"]
        lines.append(
            f"vocabulary {tokens['vocabulary']}; several tokens in "
            f"{tokens['objects_of_several']:.0%} of objects and "
            f"{tokens['subjects_of_several']:.0%} of subjects"
        )
        for kind in ("object", "subject"):
            lengths = ", ".join(f"{n}: {count}" for n, count in tokens[f"per_{kind}"].items())
            lines.append(f"tokens per {kind}: {lengths}")
    if "model_megabytes" in counts:
        lines.append(f"model {counts['model_megabytes']:.1f} MB")
    lines.append("")
    lines.append(f"{'relation':<9}{'name':<20}{'facts':>6}{'objects':>9}{'wordings':>10}")
    for key, relation in counts["relations"].items():
        lines.append(
            f"{key:<9}{relation['name']:<20}{relation['facts']:>6}"
            f"{relation['objects']:>9}{relation['wordings']:>10}"
        )
    return "\n".join(lines)
