"""Writes to MLflow: creates what is missing, corrects what differs, and repeats nothing."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from editkit import EditkitError, TrackingError
from editkit.errors import first_line
from editkit.palette import series_style
from editkit.storage.digests import sha256_of
from editkit.storage.machine import is_about_space, space_left
from editkit_plugins.mlflow_tracking.content import RunContent
from editkit_plugins.mlflow_tracking.database import (
    artifact_folder,
    database_file,
    ensure_database,
    lock,
    printable_uri,
    quiet,
)
from editkit_plugins.mlflow_tracking.view import BENCHMARK, TAG

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

FINGERPRINT = "editkit.fingerprint"
CONTENT = "editkit.content"
_IMAGE = "editkit.image"  # tag with the digest of the image of a panel
_IMAGES = "images"  # folder in which MLflow keeps the images of panels
_EMPTY: Mapping[str, Any] = MappingProxyType({})
_PARAMS_PER_CALL = 100
_METRICS_PER_CALL = 1000
_SHOWN_DIGEST = 12
_KIND = "editkit.experiment"  # tag with the kind of the runs; it marks our experiments
_ARTIFACTS = "editkit.artifacts"  # tag with the folder of artifacts at creation
_ENCLOSED = "editkit.enclosed"  # tag with the digest of what a run shares with others
_NOTE, _OUR_NOTE = "mlflow.note.content", "editkit.note"  # the second has the digest of our note
_EARLIER_NOTE = "Benchmark **"  # how notes of earlier versions begin, which have no digest
_COLOR = "mlflow.runColor"
_EARLIER_BOUNDS = ("_ci_low", "_ci_high")  # ends of metrics that earlier versions logged
_EXPERIMENT_TAGS = {"mlflow.experimentKind": "custom_model_development"}


class Tracker:
    """One experiment of one MLflow store.

    Args:
        uri: Tracking URI; a missing local SQLite database is created.
        experiment: The experiment's name; a missing experiment is created.
        note: Description of the experiment with this id, in Markdown; one that a user has changed
            stays.
        kind: What its runs are: cells of a benchmark, or reports of some kind.
        tags: More tags of the experiment; they are kept up to date.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses a request.
    """

    def __init__(
        self,
        uri: str,
        *,
        experiment: str,
        note: Callable[[str], str] | None = None,
        kind: str = BENCHMARK,
        tags: Mapping[str, str] = _EMPTY,
    ) -> None:
        self.uri = uri
        self._database = database_file(uri)
        with mlflow_errors(uri):
            if self._database is not None:
                ensure_database(self._database)
            self.client = _client(uri)
            with self._locked():
                self.experiment_id = self._experiment(
                    experiment, {**_EXPERIMENT_TAGS, _KIND: kind, **tags}
                )
                if note is not None:
                    self._describe(note(self.experiment_id))

    def document(self, run_ids: Sequence[str]) -> dict[str, Any]:
        """Where runs are in MLflow, as an entry for JSON documents."""
        return {
            "mlflow": {
                "tracking_uri": printable_uri(self.uri),
                "experiment_id": self.experiment_id,
                "run_ids": list(run_ids),
            }
        }

    def log(
        self,
        content: RunContent,
        *,
        environment: Mapping[str, Any] = _EMPTY,
        rewrite: bool = False,
    ) -> str:
        """Create the MLflow run of some content, or update it.

        Args:
            content: The content of the run.
            environment: Logged only when the run is first written; a later export may happen on
                another machine.
            rewrite: Write everything, even if the run already has this content.

        Returns:
            Id of the MLflow run.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses a request.
        """
        with mlflow_errors(self.uri), self._locked():
            run = self._existing_run(content)
            if run is None:
                run = self._new_run(content)
            if CONTENT not in run.data.tags:
                text = json.dumps(environment, indent=2)
                self.client.log_text(run.info.run_id, text, "environment.json")
            if rewrite or run.data.tags.get(CONTENT) != content.digest:
                self._write(run, content)
            run_id: str = run.info.run_id
            return run_id

    def enclose(
        self, run_ids: Sequence[str], digest: str, files: Callable[[], Mapping[str, bytes]]
    ) -> None:
        """Add the same files to several MLflow runs that lack them, or have others.

        Args:
            run_ids: The MLflow runs.
            digest: Digest of everything that the files depend on.
            files: Returns their content by path; called only if a run needs them.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses a request.
        """
        with mlflow_errors(self.uri):
            runs = [self.client.get_run(run_id) for run_id in run_ids]
            stale = [run.info.run_id for run in runs if run.data.tags.get(_ENCLOSED) != digest]
            if not stale:
                return
            contents = files()
            with self._locked():
                for run_id in stale:
                    for name, data in contents.items():
                        self._log_file(run_id, name, data)
                    self.client.set_tag(run_id, _ENCLOSED, digest)

    def delete_runs(self, tag: str, value: str) -> None:
        """Delete the MLflow runs with a tag, to MLflow's trash.

        Raises:
            TrackingError: MLflow cannot be reached, or refuses a request.
        """
        with mlflow_errors(self.uri), self._locked():
            for run in self.client.search_runs(
                [self.experiment_id], filter_string=f"tags.`{tag}` = '{value}'"
            ):
                self.client.delete_run(run.info.run_id)

    def _describe(self, note: str) -> None:
        """Update the experiment's description, unless a user has changed it."""
        tags = self.client.get_experiment(self.experiment_id).tags
        current = tags.get(_NOTE, "")
        ours = not current or tags.get(_OUR_NOTE) == sha256_of(current)
        if current == note or not (ours or current.startswith(_EARLIER_NOTE)):
            return
        self.client.set_experiment_tag(self.experiment_id, _OUR_NOTE, sha256_of(note))
        self.client.set_experiment_tag(self.experiment_id, _NOTE, note)

    def _experiment(self, name: str, tags: Mapping[str, str]) -> str:
        """Id of the experiment, created or updated."""
        existing = self.client.get_experiment_by_name(name)
        location = None if self._database is None else artifact_folder(self._database).as_uri()
        if existing is None:
            own = {} if location is None else {_ARTIFACTS: location}
            return str(self.client.create_experiment(name, location, tags={**tags, **own}))
        if existing.tags.get(_ARTIFACTS, location) != location:
            raise TrackingError(
                f"{self._database} was moved: its artifacts belong to {existing.tags[_ARTIFACTS]}.",
                hint="Delete this mlflow.db and run `editkit export-mlflow`, which recreates it "
                "from the store.",
            )
        if existing.lifecycle_stage == "deleted":
            self.client.restore_experiment(existing.experiment_id)
        for key, value in tags.items():
            if existing.tags.get(key) != value:
                self.client.set_experiment_tag(existing.experiment_id, key, value)
        return str(existing.experiment_id)

    def _new_run(self, content: RunContent) -> MlflowRun:
        own = {FINGERPRINT: content.fingerprint}
        if _COLOR not in content.tags:
            # MLflow would choose colours by run id and often give two runs similar ones.
            own[_COLOR] = series_style(len(self.client.search_runs([self.experiment_id]))).color
        return self.client.create_run(
            self.experiment_id,
            start_time=content.started,
            run_name=content.name,
            tags={**content.tags, **own},
        )

    def _existing_run(self, content: RunContent) -> MlflowRun | None:
        runs = self.client.search_runs(
            [self.experiment_id],
            filter_string=f"tags.`{FINGERPRINT}` = '{content.fingerprint}'",
            order_by=["attributes.start_time ASC"],
            max_results=1,
        )
        if not runs:
            return None
        known = runs[0].data.params
        outdated = [key for key in runs[0].data.metrics if key.endswith(_EARLIER_BOUNDS)]
        if not outdated and all(
            known.get(key, value) == value for key, value in content.params.items()
        ):
            return runs[0]
        # MLflow can neither change parameters nor delete metrics, so a new run replaces this one.
        self.client.delete_run(runs[0].info.run_id)
        return None

    def _write(self, run: MlflowRun, content: RunContent) -> None:
        from mlflow.entities import RunTag

        run_id = run.info.run_id
        new = {k: v for k, v in content.params.items() if k not in run.data.params}
        for batch in _batches(list(new.items()), _PARAMS_PER_CALL):
            self.client.log_batch(run_id, params=[_param(*item) for item in batch])
        points = [*self._metrics(run, content), *self._curves(run, content)]
        for start in range(0, len(points), _METRICS_PER_CALL):
            self.client.log_batch(run_id, metrics=points[start : start + _METRICS_PER_CALL])
        if content.dataset:
            self._log_dataset(run, content.dataset)
        for name, text in content.files.items():
            self.client.log_text(run_id, text, name)
        for name, data in content.attachments.items():
            self._log_file(run_id, name, data)
        self._log_panels(run, content)
        if content.records:
            self._log_parquet(run_id, content.records)
        self.client.update_run(run_id, name=content.name)
        if content.finished is not None:
            self.client.set_terminated(run_id, status="FINISHED", end_time=content.finished)
        # The digest comes last: a run that was only partly written is written again.
        tags = {**content.tags, CONTENT: content.digest}
        self.client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])

    def _metrics(self, run: MlflowRun, content: RunContent) -> list[Any]:
        """Metrics with a new or changed value."""
        from mlflow.entities import Metric

        points = []
        for key, value in content.metrics.items():
            known = run.data.metrics.get(key)
            if known == value:
                continue
            timestamp = content.logged_at
            if known is not None:
                # MLflow shows the latest point, so a correction needs a later timestamp.
                history = self.client.get_metric_history(run.info.run_id, key)
                timestamp = max(timestamp, *(point.timestamp + 1 for point in history))
            points.append(Metric(key, value, timestamp, content.step))
        return points

    def _curves(self, run: MlflowRun, content: RunContent) -> list[Any]:
        """Points that are not logged yet, or with another value."""
        from mlflow.entities import Metric

        points = []
        for key, curve in content.curves.items():
            latest: dict[int, tuple[int, float]] = {}  # timestamp and value by step
            if key in run.data.metrics:
                for point in self.client.get_metric_history(run.info.run_id, key):
                    logged = (point.timestamp, point.value)
                    latest[point.step] = max(latest.get(point.step, logged), logged)
            for step, value, timestamp in curve:
                if step not in latest:
                    points.append(Metric(key, value, timestamp, step))
                elif latest[step][1] != value:  # MLflow shows the latest, as above
                    points.append(Metric(key, value, max(timestamp, latest[step][0] + 1), step))
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

    def _log_file(self, run_id: str, path: str, data: bytes) -> None:
        parent, _, name = path.rpartition("/")
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / name
            file.write_bytes(data)
            self.client.log_artifact(run_id, str(file), parent or None)

    def _log_panels(self, run: MlflowRun, content: RunContent) -> None:
        """Log images that are new or changed; MLflow shows the latest image of each name."""
        import PIL.Image

        run_id = run.info.run_id
        logged = [file.path for file in self.client.list_artifacts(run_id, _IMAGES)]
        for name, data in content.panels.items():
            earlier = sum(path.startswith(f"{_IMAGES}/{name}+") for path in logged)
            tag, digest = f"{_IMAGE}.{name}", sha256_of(data)[:_SHOWN_DIGEST]
            if earlier and run.data.tags.get(tag) == digest:
                continue
            timestamp = content.logged_at + earlier
            with PIL.Image.open(io.BytesIO(data)) as image:
                self.client.log_image(run_id, image, key=name, step=0, timestamp=timestamp)
            self.client.set_tag(run_id, tag, digest)

    def _locked(self) -> contextlib.AbstractContextManager[object]:
        """Lock a local database, so that two processes do not create the same run."""
        return contextlib.nullcontext() if self._database is None else lock(self._database)


@contextlib.contextmanager
def mlflow_errors(uri: str) -> Iterator[None]:
    """Silence MLflow, and turn every error into a :class:`TrackingError`."""
    try:
        with quiet():
            yield
    except EditkitError:
        raise
    except Exception as error:  # from MLflow, its database, or the network
        reason = first_line(error).replace(uri, printable_uri(uri)).rstrip(".")
        file = database_file(uri)
        space = "" if file is None else space_left(file)
        full = bool(space) or is_about_space(error)
        raise TrackingError(
            f"MLflow at {printable_uri(uri)} failed: {reason}{space}.",
            hint="All results are safe in the store; "
            f"{'free some disk space, then' if full else 'once MLflow works again,'} run "
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
    """Experiments of editkit that have runs: benchmarks before others, the latest first.

    Returns:
        By name: the experiment's id, and our view of it if there is one.

    Raises:
        TrackingError: MLflow cannot be reached, or refuses a request.
    """
    with mlflow_errors(uri):
        client = _client(uri)
        experiments = client.search_experiments(order_by=["last_update_time DESC"])
        experiments = sorted(experiments, key=lambda each: each.tags.get(_KIND) != BENCHMARK)
        return {
            experiment.name: (str(experiment.experiment_id), experiment.tags.get(TAG))
            for experiment in experiments
            if _KIND in experiment.tags
            and client.search_runs([experiment.experiment_id], max_results=1)
        }
