"""Names of all cases and shapes, so that the command line needs no torch to check its arguments."""

from __future__ import annotations

from typing import Final

PLAIN: Final = (
    *("scoring-atlas", "rome-atlas", "rome-gpt2-small", "rome-smollm2", "kn-atlas"),
    *("kn-gpt2-small", "trace-atlas", "trace-gpt2-small", "trace-smollm2", "train-mend"),
    *("train-ke", "prompts-atlas", "prompts-gpt2-small", "prompts-smollm2", "generation-atlas"),
    *("generation-gpt2-small", "free-atlas"),
)
"""Cases against the plain way."""

PUBLISHED: Final = (
    *("edit-atlas", "edit-gpt2-small", "score-atlas", "score-gpt2-small"),
    *("trace-atlas", "trace-gpt2-small", "record-atlas", "record-gpt2-small"),
)
"""Cases against ROME's published code."""

SAME_AS_CPU, TESTS = "same-as-cpu", "tests"
"""Checks of a device."""

DEVICE: Final = (
    *("rome-batch", "rome", "record-generation", "record", TESTS, "trace", "memit", SAME_AS_CPU),
    *("statistics", "mend", "ke", "half-rome", "half-scores"),
)
"""Cases and checks of a device, in the order of importance."""

SHAPES: Final = ("tiny", "tiny-llama", "gpt2-small", "smollm2", "gpt2-xl", "llama-8b")
"""Shapes of a device's cases."""
