"""A config whose module loads torch."""

from __future__ import annotations

import torch

from tests.editkit.testing.configs import EditorConfig


class HeavyConfig(EditorConfig):
    """Configuration that is slow to import."""

    threads: int = torch.get_num_threads()
    """Number of threads."""
