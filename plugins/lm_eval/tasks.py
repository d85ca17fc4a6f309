"""Tasks of the harness with their data: which scores they have, and what those depend on."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from editkit import ConfigError, DatasetError, EditkitError, Score
from editkit.errors import did_you_mean, first_line
from editkit.storage.digests import digest_of_file, sha256_of
from editkit.storage.resources import resource_path
from editkit_plugins.lm_eval.harness import harness, installed_version

if TYPE_CHECKING:
    from editkit_plugins.lm_eval.config import LmEvalConfig

__all__ = ["LoadedTasks", "change_key", "load_tasks", "score_key"]

_OURS = "editkit_benchmarks:atlas/tasks"
_FRACTIONS = {"acc", "acc_norm", "acc_bytes", "acc_mutual_info", "exact_match", "em", "f1", "mcc"}
"""Metrics of the harness from 0 to 1 (MCC from -1), which tables show times 100."""
_SIGNED = {"mcc"}
_NOT_IN_KEYS = re.compile(r"[^A-Za-z0-9_.\-]+")
_YAML = (".yaml", ".yml")


def score_key(task: str, metric: str) -> str:
    """The key of a score: ``lm_eval/arc_easy/acc``.

    Args:
        task: Name of the task or group.
        metric: The harness's name, with its filter: ``acc,none``.
    """
    name, _, chosen = metric.partition(",")
    parts = [task, name, *([chosen] if chosen not in ("", "none") else [])]
    return "/".join(["lm_eval", *(_NOT_IN_KEYS.sub("_", part) for part in parts)])


def change_key(key: str) -> str:
    """The key of a score's difference from that of the unedited model."""
    return f"{key}_change"


@dataclasses.dataclass(frozen=True)
class LoadedTasks:
    """Tasks and groups, ready to be run.

    Attributes:
        tasks: The harness's tasks, by name.
        groups: Its groups, by name.
        scores: What they measure, and the difference of each from the unedited model's.
        identity: What the scores depend on besides the configuration: version of the harness; for
            each task its version, and digests of its settings and documents.
    """

    tasks: Mapping[str, Any]
    groups: Mapping[str, Any]
    scores: tuple[Score, ...]
    identity: Mapping[str, str]


def load_tasks(config: LmEvalConfig) -> LoadedTasks:
    """Read the tasks that a configuration names, with their data.

    Raises:
        ConfigError: There is no such task, it occurs twice, or it cannot be run here.
        DatasetError: Its data cannot be read.
        PluginError: The harness is not installed.
    """
    version = installed_version()
    with harness():
        from lm_eval.tasks import TaskManager

        folders = [str(resource_path(_OURS)), *_own_folder(config)]
        manager = TaskManager(include_path=folders, include_defaults=False)
        if any(_is_elsewhere(manager, name) for name in config.tasks):
            manager = TaskManager(include_path=folders)  # reads some 15,000 files
        tasks: dict[str, Any] = {}
        groups: dict[str, Any] = {}
        for name in dict.fromkeys(config.tasks):
            if not _is_file(name) and name not in manager.task_index:
                raise _no_such_task(name, manager.all_tasks)
            loaded = _loaded(manager, name)
            if repeated := loaded["tasks"].keys() & tasks.keys():
                raise ConfigError(
                    f"lm-eval: the task {min(repeated)!r} of {name!r} is also in another of the "
                    "tasks.",
                    hint="Name each task once; a group includes its tasks.",
                )
            tasks |= loaded["tasks"]
            groups |= loaded.get("groups", {})
        for name, task in tasks.items():
            _check(name, task)
            _configure(task, config)
        identity = {"lm_eval": version}
        for name, task in tasks.items():
            identity[f"task {name}"] = _identity(task, config)
        for file in filter(_is_file, config.tasks):
            for code in sorted(Path(file).expanduser().resolve().parent.glob("*.py")):
                identity[f"{file}: {code.name}"] = digest_of_file(code)
        scores = tuple(_scores(tasks, groups))
    return LoadedTasks(tasks, groups, scores, identity)


def _own_folder(config: LmEvalConfig) -> list[str]:
    """The folder of ``include_path``, if there is one."""
    if config.include_path is None:
        return []
    folder = config.include_path.expanduser()
    if not folder.is_dir():
        raise ConfigError(
            f"lm-eval: include_path {str(config.include_path)!r} is not a folder.",
            hint="Give the folder that has the YAML files of your tasks.",
        )
    return [str(folder)]


def _is_elsewhere(manager: Any, name: str) -> bool:
    """Whether a task, or one that a group names, is not in the folders that were read."""
    from lm_eval.tasks._yaml_loader import load_yaml

    index = manager.task_index
    if _is_file(name):
        try:
            settings = load_yaml(name, resolve_func=False)
        except Exception:  # loading the task reports it
            return False
    elif name in index:
        settings = index[name].cfg or {}
    else:
        return True
    members = settings.get("task")
    if not isinstance(members, list):
        return False
    names = (each if isinstance(each, str) else each.get("task", "") for each in members)
    return any(each not in index for each in names)


def _is_file(task: str) -> bool:
    return task.endswith(_YAML)


def _no_such_task(name: str, known: Iterable[str]) -> ConfigError:
    return ConfigError(
        f"lm-eval: there is no task, group or tag {name!r}.",
        hint=did_you_mean(name, known)
        or "'lm_eval ls tasks' lists all names; a file of your own is named by its path, which "
        "ends in .yaml.",
    )


def _loaded(manager: Any, name: str) -> Any:
    """The tasks and groups of one name or file."""
    if _is_file(name) and not Path(name).expanduser().is_file():
        raise ConfigError(
            f"lm-eval: the task file {name!r} does not exist.",
            hint="Paths are relative to the current folder.",
        )
    try:
        return manager.load(name)
    except EditkitError:
        raise
    except Exception as error:
        raise DatasetError(
            f"lm-eval: the task {name!r} cannot be loaded: {first_line(error, named=True)}.",
            hint="Check the file against the harness's task guide. Paths in data_files are "
            "relative to the current folder."
            if _is_file(name)
            else "A task of the hub needs the network once, and its data in the cache afterwards.",
        ) from error


def _check(name: str, task: Any) -> None:
    if getattr(task, "UNSAFE_CODE", False):
        raise ConfigError(
            f"lm-eval: the task {name!r} runs code that the model writes.",
            hint="Choose another task: editkit runs no such code.",
        )
    if getattr(task, "MULTIMODAL", False):
        raise ConfigError(
            f"lm-eval: the task {name!r} has images or sounds.",
            hint="Choose a task with texts alone.",
        )


def _configure(task: Any, config: LmEvalConfig) -> None:
    """Set what ``lm_eval.simple_evaluate`` sets in each task."""
    if config.gen_kwargs and task.get_config("output_type") == "generate_until":
        task.set_config("generation_kwargs", value=dict(config.gen_kwargs), update=True)
    examples = task.get_config("num_fewshot")
    if config.num_fewshot is None:
        if examples is None:
            task.set_config("num_fewshot", value=0)
    elif examples != 0:  # 0 in a task's file means never
        task.set_config("num_fewshot", value=config.num_fewshot)


# ---------------------------------------------------------------- what scores depend on


def _identity(task: Any, config: LmEvalConfig) -> str:
    """Version of a task, and digests of its settings and of the documents that it asks."""
    settings = dict(task.dump_config())
    metadata = settings.get("metadata")
    if isinstance(metadata, Mapping):
        settings["metadata"] = {k: v for k, v in metadata.items() if k != "config_source"}
    documents = (document for _, document in task.doc_iterator(limit=_limit(task, config)))
    parts = {"config": [settings], "documents": documents}
    if task.get_config("num_fewshot"):
        parts["examples"] = task.fewshot_docs() or []
    digests = (f"{name} {sha256_of(map(_as_json, part))[:16]}" for name, part in parts.items())
    return f"version {task.VERSION}, {', '.join(digests)}"


def _limit(task: Any, config: LmEvalConfig) -> int | None:
    from lm_eval.evaluator_utils import get_sample_size

    limit: int | None = get_sample_size(task, config.limit)
    return limit


def _as_json(value: object) -> str:
    from lm_eval.utils import handle_non_serializable

    return json.dumps(value, sort_keys=True, default=handle_non_serializable) + "\n"


# ---------------------------------------------------------------- scores


def _scores(tasks: Mapping[str, Any], groups: Mapping[str, Any]) -> Iterator[Score]:
    """The scores of groups that have some, then those of tasks."""
    inside: set[str] = set()
    for name, group in groups.items():
        if group.has_aggregation:
            members = {task.task_name for task in group.get_all_tasks()}
            top = name not in inside
            inside |= members | {each.name for each in group.get_all_groups()}
            yield from _of_group(name, group, labelled=top)
    for name, task in tasks.items():
        directions = task.higher_is_better()
        for metric in task.aggregation():
            for chosen in task._filters:
                better = directions.get(metric, True)
                full = f"{metric},{chosen.name}"
                yield from _score(name, full, better, labelled=name not in inside)


def _of_group(name: str, group: Any, *, labelled: bool) -> Iterator[Score]:
    for aggregated in group.aggregate_metric_list:
        metric = aggregated.metric
        directions = [task.higher_is_better() for task in group.get_all_tasks()]
        better = next((each[metric] for each in directions if metric in each), True)
        filters = aggregated.filter_list or sorted(
            {
                each.name
                for task in group.get_all_tasks()
                if metric in task.aggregation()
                for each in task._filters
            }
        )
        for chosen in filters:
            yield from _score(name, f"{metric},{chosen}", better, labelled=labelled)


def _score(task: str, metric: str, better: bool | None, *, labelled: bool) -> Iterator[Score]:
    name, _, chosen = metric.partition(",")
    label = " ".join([task, name, *([] if chosen == "none" else [chosen])])
    key, may_be_negative = score_key(task, metric), name in _SIGNED
    scale, digits = (100.0, None) if name in _FRACTIONS else (1.0, 3)
    bounds: tuple[float | None, float | None]
    change: tuple[float | None, float | None]
    if name in _FRACTIONS:
        bounds = (-1.0 if may_be_negative else 0.0, 1.0)
        change = (-2.0, 2.0) if may_be_negative else (-1.0, 1.0)
    else:  # perplexities and the like, or anything that a task defines
        bounds, change = (None if better else 0.0, None), (None, None)
    yield Score(
        key,
        label if labelled else "",
        higher_is_better=better,
        signed=may_be_negative,
        scale=scale,
        digits=digits,
        bounds=bounds,
        name=label,
        description=f"{label} of lm-evaluation-harness",
    )
    yield Score(
        change_key(key),
        higher_is_better=better,
        signed=True,
        scale=scale,
        bounds=change,
        name=f"change of {label}",
        description=f"{label} minus that of the unedited model",
    )
