"""A store with the texts of editors on three cases."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from editkit import EditRequest
from editkit.benchmark.store import Store
from editkit.results import STORE_FILE, Cell, Row, Run

REQUESTS = {
    case: EditRequest("{} is <made> by", f"Thing {case}", "Ferrari & Sons", "Fiat")
    for case in (1, 2, 3)
}


def cell(editor: str, seed: int = 0) -> Cell:
    fingerprint = f"{editor}-{seed}-f00d"
    return Cell(editor, None, {}, {}, "editkit", "0.1.0", seed, fingerprint, {"editor": editor})


def texts(editor: str, case: int) -> list[str]:
    """Two texts that identify the editor, and one that all editors wrote."""
    return [f"Zoë, {case}/{place} by {editor[::-1]}" for place in (0, 1)] + ["the same"]


def written_run(
    out: Path,
    *cells: Cell,
    requests: Mapping[int, EditRequest] | None = REQUESTS,
    benchmark: str = "small",
) -> Run:
    run = Run(
        out=out,
        benchmark=benchmark,
        model={"name": "tiny", "fingerprint": "f", "dtype": "float32"},
        dataset={"name": "facts", "digest": "d" * 64, "n_records": 3, "config": {}},
        metrics=({"name": "fluency", "protocol": "p/v1"},),
        scores=(),
        seeds=(0,),
        cells=cells,
        batch=20,
    )
    with Store(out / STORE_FILE) as store:
        if requests:
            edits = {case_id: (request,) for case_id, request in requests.items()}
            store.put_requests(run.dataset["digest"], edits)
        for one in cells:
            store.put_cell(one.fingerprint, run.describe(one))
            cases = requests or REQUESTS
            rows = [Row(case, "done", texts={"t": texts(one.editor, case)}) for case in cases]
            store.put_rows(one.fingerprint, rows)
    return run
