"""Configuration of the metric ``lm-eval``: the settings of the harness, under its own names."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field
from typing_extensions import override

from editkit import Config, Score

if TYPE_CHECKING:
    from editkit_plugins.lm_eval.tasks import LoadedTasks

__all__ = ["LmEvalConfig", "scores_of"]


class LmEvalConfig(Config):
    """The tasks, and how the harness runs them; its names, and its defaults unless stated."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Names of tasks, groups and tags (``lm_eval ls tasks`` lists them), and paths of YAML files
    that define a task or a group."""

    include_path: Path | None = None
    """A folder with further tasks in YAML files, which are found by name."""

    num_fewshot: int | None = Field(default=None, ge=0)
    """Number of solved examples before each question; None: what each task defines."""

    limit: int | float | None = Field(default=None, gt=0)
    """Use only the first so many documents of each task, or that share of them if it is below 1.
    The harness advises to use this for tests only."""

    batch_size: int = Field(default=1, ge=1)
    """Number of requests in a forward pass. It affects the last digits; ``auto`` is not offered
    because then they would depend on free memory."""

    apply_chat_template: bool = False
    """Send each request as a user's turn in the model's chat template."""

    fewshot_as_multiturn: bool = True
    """With a chat template: send solved examples as turns of their own."""

    system_instruction: str | None = None
    """A system prompt."""

    gen_kwargs: dict[str, bool | int | float | str | list[str]] | None = None
    """Settings of generation, which override those of the tasks: ``{max_gen_toks: 32}``."""

    bootstrap_iters: int = Field(default=1000, ge=0)
    """Samples for standard errors that have no formula, such as that of F1; 0: no standard errors
    at all. The harness's own default is 100,000, which takes minutes per model."""

    random_seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of Python's generator."""

    numpy_random_seed: int = Field(default=1234, ge=0, lt=2**32)
    """Seed of numpy's generator."""

    torch_random_seed: int = Field(default=1234, ge=0, lt=2**32)
    """Seed of torch's generator, for tasks that sample texts."""

    fewshot_random_seed: int = Field(default=1234, ge=0, lt=2**32)
    """Seed of the choice of solved examples."""

    @functools.cached_property
    def loaded(self) -> LoadedTasks:
        """The tasks with their data, read once.

        Raises:
            ConfigError: There is no such task, or it cannot be run here.
            DatasetError: The data of a task cannot be read.
            PluginError: The harness is not installed.
        """
        from editkit_plugins.lm_eval.tasks import load_tasks

        return load_tasks(self)

    @override
    def depends_on(self, model_fingerprint: str, name: str) -> Mapping[str, str]:
        """Versions of the harness and of each task, and digests of their settings and documents."""
        return self.loaded.identity


def scores_of(config: LmEvalConfig) -> tuple[Score, ...]:
    """The scores of the tasks, and their differences from the unedited model's."""
    return config.loaded.scores
