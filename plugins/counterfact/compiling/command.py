"""Compile records in CounterFact's layout from facts, and print their composition.

FILE holds facts and wordings by relation, in ParaRel's layout or ours ('editkit explain datasets').
The same file, flags and model give the same records.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import logging
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import DatasetError, Record, Records, UsageError
from editkit.cli.arguments import add_examples, add_flag, add_flags, positive
from editkit.registry.relation_names import with_wikidata_name

if TYPE_CHECKING:
    from editkit import LanguageModel
    from editkit.records.relations import RelationFile
    from editkit_plugins.counterfact.compiling.compiler import RawRecord
    from editkit_plugins.counterfact.compiling.composition import Composition
    from editkit_plugins.counterfact.compiling.passages import Holders, Texts

_MAX_PREFIXES = 1000
_MAX_PREFIX_LENGTH = 200  # characters
_MAX_WARNINGS = 5
_log = logging.getLogger("editkit.compile-dataset")


@dataclasses.dataclass(frozen=True)
class WrittenTexts:
    """Chosen texts, their file by kind, and the number of passages they were chosen from."""

    texts: Texts
    files: dict[str, Path]
    n_passages: int


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    source = parser.add_mutually_exclusive_group(required=True)
    add_flag(
        source,
        "--facts",
        type=Path,
        metavar="FILE",
        complete="file",
        help="file of facts and wordings by relation",
    )
    add_flag(
        source,
        "--count",
        type=Path,
        metavar="RECORDS",
        complete="file",
        help="only print the composition of a file of records, or choose --texts for them",
    )
    add_flag(
        parser,
        "--save",
        also=("--out", "-o"),
        dest="out",
        default=Path("compiled.json"),
        help="file for the records",
    )
    add_flag(
        parser,
        "--records",
        type=positive,
        metavar="N",
        help="maximum number of records, drawn at random (default: all)",
    )
    add_flags(parser, "--relations")
    add_flag(parser, "--seed", help="seed of all random draws")
    add_flag(
        parser,
        "--model",
        help="model that writes the prefixes of paraphrases, and that --known asks (default: no "
        "prefixes)",
    )
    add_flag(
        parser, "--known", action="store_true", help="only facts whose object --model predicts"
    )
    add_flag(
        parser,
        "--prefixes",
        metavar="C",
        complete="file",
        help="corpus for the prefixes of paraphrases: a file, package:file, or hub:name (default: "
        "no prefixes, or those of --model)",
    )
    add_flag(
        parser,
        "--generation",
        type=Path,
        metavar="FILE",
        complete="file",
        help="generation prompts by relation (default: those that ship with editkit)",
    )
    add_flag(
        parser,
        "--paraphrases",
        type=positive,
        default=2,
        metavar="N",
        help="paraphrase prompts per record",
    )
    add_flag(
        parser,
        "--neighbors",
        type=positive,
        default=10,
        metavar="N",
        help="neighborhood prompts per record",
    )
    add_flag(
        parser,
        "--fewest-neighbors",
        type=positive,
        metavar="N",
        help="drop records with fewer neighborhood prompts (default: as many as --neighbors)",
    )
    add_flag(
        parser,
        "--texts",
        metavar="SOURCE",
        complete="file",
        help="passages for reference and essence texts: a folder, .json, .jsonl or corpus "
        "(default: no texts)",
    )
    add_flag(
        parser,
        "--most-texts",
        type=positive,
        default=20,
        metavar="N",
        help="maximum number of texts per subject, and per relation and object",
    )
    add_flags(parser, "--device", "--dtype", "--json")
    add_examples(parser, "editkit compile-dataset --facts known.relations.json --save records.json")


def run(args: argparse.Namespace) -> int:
    """Compile records, write them, and print their composition."""
    if args.count is not None:
        return _count(args)
    if args.known and args.model is None:
        raise UsageError("--known needs a model.", hint="Name it with --model.")
    from editkit.records.relations import read_relations
    from editkit.storage.cache import write_atomically
    from editkit_plugins.counterfact.compiling.compiler import Compiler, Recipe, is_known
    from editkit_plugins.counterfact.compiling.generation import (
        read_generation_prompts,
        shipped_generation_prompts,
    )
    from editkit_plugins.counterfact.dataset import parse_records

    out = args.out
    for source in (args.facts.expanduser(), args.generation):
        if source is not None and out.exists() and source.exists() and out.samefile(source):
            raise UsageError(
                f"the output would overwrite the input {str(source)!r}.",
                hint="Choose another file with --out.",
            )
    facts = read_relations(
        args.facts.expanduser(),
        only=tuple(args.relations),
        generation=shipped_generation_prompts()
        if args.generation is None
        else read_generation_prompts(args.generation),
    )
    _warn(facts)
    model = None
    if args.model is not None:
        from editkit import load_model

        model = load_model(args.model, dtype=args.dtype, device=args.device)
    recipe = Recipe(
        records=args.records,
        seed=args.seed,
        paraphrases=args.paraphrases,
        neighbors=args.neighbors,
        fewest_neighbors=args.fewest_neighbors or args.neighbors,
        prefixes=_prefixes(args, model),
    )
    keep = functools.partial(is_known, model) if args.known and model is not None else None
    compiled = Compiler(facts.table, recipe).compile(keep)
    if not compiled:
        raise DatasetError(
            f"the {len(facts.table.facts)} facts of {str(args.facts)!r} give no record.",
            hint="Give more facts that share objects, or lower --fewest-neighbors.",
        )
    if args.records is not None and len(compiled) < args.records:
        _log.warning("the facts give only %d of %d records", len(compiled), args.records)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, _to_json(compiled).encode())
    loaded = parse_records(compiled)
    texts = _texts(args, loaded.records, facts.table.holders, out)
    _print_composition(args, loaded, out, texts)
    return 0


def _count(args: argparse.Namespace) -> int:
    from editkit.records.reading import read_json_list
    from editkit_plugins.counterfact.dataset import parse_records

    loaded = parse_records(read_json_list(args.count.expanduser()))
    if not loaded.records:
        raise DatasetError(
            f"dataset file {str(args.count)!r} has no usable record out of {len(loaded.rejected)} "
            f"({loaded.rejected[0].field}: {loaded.rejected[0].reason}).",
            hint="'editkit explain datasets' shows the layout of a record.",
        )
    if loaded.rejected:
        _log.warning("skipped %d broken records", len(loaded.rejected))
    texts = None
    if args.texts is not None:
        from editkit_plugins.counterfact.compiling.passages import holders_of

        name = args.count.name.removesuffix(".gz").removesuffix(".json")
        target = args.out.with_name(f"{name}.json")
        texts = _texts(args, loaded.records, holders_of(loaded.records), target)
    _print_composition(args, loaded, args.count, texts)
    return 0


def _texts(
    args: argparse.Namespace, records: Sequence[Record], holders: Holders, out: Path
) -> WrittenTexts | None:
    """Choose reference and essence texts, and write each kind next to ``out``."""
    if args.texts is None:
        return None
    from editkit.storage.cache import write_atomically
    from editkit_plugins.counterfact.compiling.passages import read_passages, texts_for

    passages = read_passages(args.texts)
    texts = texts_for(records, holders, passages, most=args.most_texts, seed=args.seed)
    if not texts.reference and not texts.essence:
        raise DatasetError(
            f"none of the {len(passages)} passages of {args.texts!r} is about a subject of the "
            "records.",
            hint="'editkit explain datasets' shows how passages and subjects are matched.",
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    files = {}
    for kind, content in (("reference", texts.reference), ("essence", texts.essence)):
        if not content:
            _log.warning("no passage gives a %s text", kind)
            continue
        files[kind] = out.with_suffix(f".{kind}.json")
        text = json.dumps(content, ensure_ascii=False, indent=1)
        write_atomically(files[kind], f"{text}\n".encode())
    return WrittenTexts(texts, files, len(passages))


def _prefixes(args: argparse.Namespace, model: LanguageModel | None) -> tuple[str, ...]:
    """Texts to put before paraphrases: from a corpus, or sampled from the model."""
    if args.prefixes is not None:
        from editkit.covariance.corpora import Corpus

        texts = [text.strip() for text in Corpus(args.prefixes).texts()]
        usable = sorted({text for text in texts if 0 < len(text) <= _MAX_PREFIX_LENGTH})
        if not usable:
            raise DatasetError(
                f"corpus {args.prefixes!r} has no text of at most {_MAX_PREFIX_LENGTH} characters.",
                hint="Give a corpus with one sentence per line.",
            )
        generator = random.Random(f"prefixes-{args.seed}")
        return tuple(generator.sample(usable, min(_MAX_PREFIXES, len(usable))))
    if model is None:
        _log.warning("no --model and no --prefixes: paraphrases have no prefixes")
        return ()
    from editkit_plugins.counterfact.compiling.compiler import sampled_prefixes

    return sampled_prefixes(model, args.seed)


# ---------------------------------------------------------------- output


def _to_json(records: Sequence[RawRecord]) -> str:
    """A JSON list with one record per line."""
    return "[\n" + ",\n".join(json.dumps(each, ensure_ascii=False) for each in records) + "\n]\n"


def _warn(facts: RelationFile) -> None:
    for rejected in facts.rejected[:_MAX_WARNINGS]:
        _log.warning("skipped: %s: %s", rejected.field, rejected.reason)
    if (more := len(facts.rejected) - _MAX_WARNINGS) > 0:
        _log.warning("skipped: %d more broken facts", more)
    if facts.unusable:
        _log.warning(
            "relations without facts, or with fewer than two wordings that end at the object: %s",
            ", ".join(map(with_wikidata_name, facts.unusable)),
        )
    if facts.no_generation:
        _log.warning(
            "relations without generation prompts (--generation): %s",
            ", ".join(map(with_wikidata_name, facts.no_generation)),
        )


def _print_composition(
    args: argparse.Namespace, loaded: Records, path: Path, texts: WrittenTexts | None
) -> None:
    from editkit.terminal import aligned
    from editkit_plugins.counterfact.compiling.composition import composition, table

    counts = composition(loaded.records)
    if args.json:
        document = _document(counts, loaded, path)
        if texts is not None:
            document["texts"] = _texts_document(texts)
        sys.stdout.write(json.dumps(document, indent=2) + "\n")
        return
    per_relation = counts.records_per_relation.items()
    relations = ", ".join(f"{with_wikidata_name(name)} {n}" for name, n in per_relation)
    sys.stdout.write(f"{aligned(table(counts))}\nrecords by relation: {relations}\n{path}\n")
    if texts is not None:
        _print_texts(texts, len(loaded.records))


def _print_texts(texts: WrittenTexts, n_records: int) -> None:
    """How many records have texts, the files, and the settings of the dataset that name them."""
    chosen = texts.texts
    rows = {
        "reference": (chosen.with_reference, sum(map(len, chosen.reference.values())), "objects"),
        "essence": (chosen.with_essence, len(chosen.essence), "subjects"),
    }
    sys.stdout.write(f"{texts.n_passages:,} passages\n")
    for kind, file in texts.files.items():
        n_with, n_of, of = rows[kind]
        sys.stdout.write(
            f"{kind} texts of {n_of:,} {of}, for {n_with:,} of {n_records:,} records: {file}\n"
        )
    sets = " ".join(f"--set dataset.{kind}_texts={file}" for kind, file in texts.files.items())
    sys.stdout.write(f"use them with: {sets}\n")


def _texts_document(texts: WrittenTexts) -> dict[str, Any]:
    return {
        "passages": texts.n_passages,
        "files": {kind: str(file) for kind, file in texts.files.items()},
        "records_with": {
            "reference": texts.texts.with_reference,
            "essence": texts.texts.with_essence,
        },
    }


def _document(counts: Composition, loaded: Records, path: Path) -> dict[str, Any]:
    from editkit_plugins.counterfact.compiling.composition import PAPER

    return {
        "schema": 1,
        "file": str(path),
        "digest": loaded.digest,
        "composition": {name: dataclasses.asdict(count) for name, count in counts.items.items()},
        "records_of_relation": dict(counts.records_per_relation),
        "paper": {
            name: dict(zip(("total", "per_relation", "per_record"), numbers, strict=True))
            for name, numbers in PAPER.items()
        },
    }
