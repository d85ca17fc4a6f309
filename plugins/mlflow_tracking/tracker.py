"""Writes pages to MLflow: creates what is missing, corrects what differs, repeats nothing."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from editkit import EditkitError, TrackingError
from editkit.errors import first_line
from editkit.storage.digests import sha256_of
from editkit.storage.machine import is_about_space, space_left
from editkit_plugins.mlflow_tracking.database import (
    artifact_folder,
    database_file,
    ensure_database,
    lock,
    quiet,
    shown,
)
from editkit_plugins.mlflow_tracking.page import Page
from editkit_plugins.mlflow_tracking.view import BENCHMARK, TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

FINGERPRINT = "editkit.fingerprint"
CONTENT = "editkit.content"
_IMAGE = "editkit.image"  # digest of the picture of that name
_IMAGES = "images"  # where MLflow keeps pictures for its panels
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_PARAMS_PER_CALL = 100
_METRICS_PER_CALL = 1000
_SHOWN_DIGEST = 12
_OURS = "editkit.experiment"
_COLORS = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F7F7F", "#332288"),
    *("#882255", "#999933", "#000000", "#A0522D", "#00CED1", "#6A9F00", "#B07AFF", "#F08080"),
)
"""The first eight are told apart by everybody, the others by most. MLflow's own choice, by run id,
often paints two runs alike."""
_ARTIFACTS = "editkit.artifacts"  # where they were when we made the experiment
_KIND = {"mlflow.experimentKind": "custom_model_development"}


class Tracker:
    """One experiment of one MLflow store.

    Args:
        uri: Tracking URI; a local SQLite database is created where it is missing.
        experiment: The experiment's name; created where it is missing.
        note: The experiment's description, in Markdown; an existing one is left to its readers.
        kind: What its runs are: cells of a benchmark, or reports of some kind.
        tags: More tags of the experiment, kept up to date.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        note: str = "",
        kind: str = BENCHMARK,
        tags: Mapping[str, str] = _EMPTY,
    ) -> None:
        self.uri = uri
        self._database = database_file(uri)
        with speaking_to(uri):
            if self._database is not None:
                ensure_database(self._database)
            self.client = _client(uri)
            with self._alone():
                self.experiment_id = self._experiment(
                    experiment, note, {**_KIND, _OURS: kind, **tags}
                )

    def publish(
        self, page: Page, *, environment: Mapping[str, Any] = _EMPTY, anew: bool = False
    ) -> str:
        """Make the page's run what the page says, and return its id.

        Args:
            page: The content.
            environment: Kept with a run when it is first written: a later replay, perhaps on
                another machine, does not know what the results were computed with.
            anew: Write everything, though the run already carries this very content.

        Raises:
            TrackingError: MLflow cannot be reached or refuses.
        """
        with speaking_to(self.uri), self._alone():
            run = self._find(page)
            if run is None:
                run = self._create(page)
            if CONTENT not in run.data.tags:
                text = json.dumps(environment, indent=2)
                self.client.log_text(run.info.run_id, text, "environment.json")
            if anew or run.data.tags.get(CONTENT) != page.digest:
                self._write(run, page)
            run_id: str = run.info.run_id
            return run_id

    def _experiment(self, name: str, note: str, tags: Mapping[str, str]) -> str:
        found = self.client.get_experiment_by_name(name)
        location = None if self._database is None else artifact_folder(self._database).as_uri()
        if found is None:
            described = {**tags, "mlflow.note.content": note}
            if location is not None:
                described[_ARTIFACTS] = location
            return str(self.client.create_experiment(name, location, tags=described))
        if found.tags.get(_ARTIFACTS, location) != location:
            raise TrackingError(
                f"{self._database} was moved: its artifacts belong to {found.tags[_ARTIFACTS]}.",
                hint="Delete this mlflow.db and run `editkit export-mlflow`, which makes it again "
                "from the store.",
            )
        if found.lifecycle_stage == "deleted":
            self.client.restore_experiment(found.experiment_id)
        for key, value in tags.items():
            if found.tags.get(key) != value:
                self.client.set_experiment_tag(found.experiment_id, key, value)
        return str(found.experiment_id)

    def _create(self, page: Page) -> MlflowRun:
        earlier = len(self.client.search_runs([self.experiment_id]))
        own = {FINGERPRINT: page.fingerprint, "mlflow.runColor": _COLORS[earlier % len(_COLORS)]}
        return self.client.create_run(
            self.experiment_id,
            start_time=page.started,
            run_name=page.name,
            tags={**page.tags, **own},
        )

    def _find(self, page: Page) -> MlflowRun | None:
        runs = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.`{FINGERPRINT}` = '{page.fingerprint}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        if not runs:
            return None
        known = runs[0].data.params
        if all(known.get(key, value) == value for key, value in page.params.items()):
            return runs[0]
        # MLflow's parameters cannot be corrected; the run gives way to one that is right.
        self.client.delete_run(runs[0].info.run_id)
        return None

    def _write(self, run: MlflowRun, page: Page) -> None:
        from mlflow.entities import RunTag

        run_id = run.info.run_id
        new = {k: v for k, v in page.params.items() if k not in run.data.params}
        for batch in _batches(list(new.items()), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=[_param(*item) for item in batch])
        points = [*self._metrics(run, page), *self._curves(run, page)]
        for start in range(0, len(points), _METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])
        if page.dataset:
            self._log_dataset(run, page.dataset)
        for name, text in page.files.items():
            self.client.log_text(run_id, text, name)
        for name, content in page.attachments.items():
            self._log_file(run_id, name, content)
        self._log_panels(run, page)
        if page.records:
            self._log_parquet(run_id, page.records)
        self.client.update_run(run_id, name=page.name)
        if page.finished is not None:
            self.client.set_terminated(run_id, status="FINISHED", end_time=page.finished)
        # The content's digest comes last: whatever is cut off before it is written again.
        tags = {**page.tags, CONTENT: page.digest}
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _metrics(self, run: MlflowRun, page: Page) -> list[Any]:
        """Points to log: those that are new, and later ones for those whose value changed."""
        from mlflow.entities import Metric

        points = []
        for key, value in page.metrics.items():
            known = run.data.metrics.get(key)
            if known == value:
                continue
            moment = page.started if page.finished is None else page.finished
            if known is not None:
                # MLflow shows the latest point, so a correction must be later than what it mends.
                history = self.client.get_metric_history(run.info.run_id, key)
                moment = max(moment, *(point.timestamp + 1 for point in history))
            points.append(Metric(key, value, moment, 0))
        return points

    def _curves(self, run: MlflowRun, page: Page) -> list[Any]:
        """Points of curves that are not logged yet."""
        from mlflow.entities import Metric

        points = []
        for key, curve in page.curves.items():
            known = set()
            if key in run.data.metrics:
                history = self.client.get_metric_history(run.info.run_id, key)
                known = {(point.step, point.value, point.timestamp) for point in history}
            points += [Metric(key, v, t, step) for step, v, t in curve if (step, v, t) not in known]
        return points

    def _log_dataset(self, run: MlflowRun, dataset: Mapping[str, str]) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        digest = dataset["digest"][:_SHOWN_DIGEST]
        logged = run.inputs.dataset_inputs if run.inputs else []
        if any(item.dataset.digest == digest for item in logged):
            return
        described = Dataset(dataset["name"], digest, "local", dataset["source"])
        tags = [InputTag("mlflow.data.context", "evaluation")]
        self.client.log_inputs(run.info.run_id, [DatasetInput(described, tags)])

    def _log_parquet(self, run_id: str, records: Sequence[Mapping[str, Any]]) -> None:
        import pyarrow
        import pyarrow.parquet

        names = dict.fromkeys(name for record in records for name in record)
        columns = {name: [record.get(name) for record in records] for name in names}
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "records.parquet"
            pyarrow.parquet.write_table(pyarrow.Table.from_pydict(columns), file)
            self.client.log_artifact(run_id, str(file))

    def _log_file(self, run_id: str, name: str, content: bytes) -> None:
        place, _, own = name.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / own
            file.write_bytes(content)
            self.client.log_artifact(run_id, str(file), place or None)

    def _log_panels(self, run: MlflowRun, page: Page) -> None:
        """Pictures that are not there yet; a later one takes the place of an earlier one."""
        import PIL.Image

        run_id = run.info.run_id
        there = [file.path for file in self.client.list_artifacts(run_id, _IMAGES)]
        moment = page.started if page.finished is None else page.finished
        for name, content in page.panels.items():
            earlier = sum(path.startswith(f"{_IMAGES}/{name}+") for path in there)
            tag, digest = f"{_IMAGE}.{name}", sha256_of(content)[:_SHOWN_DIGEST]
            if earlier and run.data.tags.get(tag) == digest:
                continue
            with PIL.Image.open(io.BytesIO(content)) as picture:
                self.client.log_image(run_id, picture, key=name, step=0, timestamp=moment + earlier)
            self.client.set_tag(run_id, tag, digest)

    def _alone(self) -> contextlib.AbstractContextManager[object]:
        """Holds other processes off a local database, so that nothing is created twice."""
        return contextlib.nullcontext() if self._database is None else lock(self._database)


@contextlib.contextmanager
def speaking_to(uri: str) -> Iterator[None]:
    """Inside, MLflow is quiet, and whatever goes wrong becomes a :class:`TrackingError`."""
    try:
        with quiet():
            yield
    except EditkitError:
        raise
    except Exception as error:  # MLflow lets its database's, its network's and its own errors out
        reason = first_line(error).replace(uri, shown(uri)).rstrip(".")
        file = database_file(uri)
        space = "" if file is None else space_left(file)
        full = bool(space) or is_about_space(error)
        raise TrackingError(
            f"MLflow at {shown(uri)} could not be written or read: {reason}{space}.",
            hint="All results are safe in the store; "
            f"{'make room on the disk and' if full else 'when it answers again,'} run "
            "`editkit export-mlflow`.",
        ) from error


def _client(uri: str) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _param(key: str, value: str) -> Any:
    from mlflow.entities import Param

    return Param(key, value)


def _batches(items: list[tuple[str, str]], size: int) -> Iterator[list[tuple[str, str]]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]


def experiments_with_runs(uri: str) -> dict[str, tuple[str, str | None]]:
    """By name, the experiments that hold runs of ours, the latest first: id, and our view if any.

    Raises:
        TrackingError: MLflow cannot be reached or refuses.
    """
    with speaking_to(uri):
        client = _client(uri)
        found = client.search_experiments(order_by=["last_update_time DESC"])
        return {
            experiment.name: (str(experiment.experiment_id), experiment.tags.get(TAG))
            for experiment in found
            if _OURS in experiment.tags
            and client.search_runs([experiment.experiment_id], max_results=1)
        }
