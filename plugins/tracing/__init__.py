"""Finding where a fact is stored: causal tracing (Meng et al. 2022) and gradient methods."""

from __future__ import annotations

from editkit import CommandSpec, LocatorSpec, hookimpl

_PACKAGE = "editkit_plugins.tracing"
PUBLISHED = {
    "window": 10,
    "window_side": "below",
    "samples": 10,
    "corruption": "gaussian",
    "noise_level": None,
    "noise_multiple": 3.0,
    "answer_tokens": "first",
    "averaging": "by_token",
    "severed_noise": "second_draw",
}
SCALED = {**PUBLISHED, "window": None}
PAPER = {
    "window": 10,
    "window_side": "above",
    "samples": 10,
    "corruption": "gaussian",
    "answer_tokens": "all",
    "averaging": "by_fact",
    "severed_noise": "same",
}
PAPER_V1 = {**PAPER, "answer_tokens": "first", "noise_level": 0.1}
CORRECTED = {"answer_tokens": "all", "averaging": "by_fact", "severed_noise": "same"}


@hookimpl
def editkit_locators() -> list[LocatorSpec]:
    """Register ``causal-tracing``, ``saliency`` and ``integrated-gradients``."""
    return [
        LocatorSpec(
            name="causal-tracing",
            factory=f"{_PACKAGE}.causal_tracing:CausalTracingLocator",
            config=f"{_PACKAGE}.config:CausalTracingConfig",
            summary="how much of a fact one restored state brings back (Meng et al. 2022)",
            presets={
                "scaled": SCALED,  # the default
                "published": PUBLISHED,
                "paper": PAPER,
                "paper-v1": PAPER_V1,
                "corrected": CORRECTED,
            },
            configs="editkit_configs",  # for the models' sizes; it has no values for locators
            model_presets={"paper-v1": {"gpt-j-6b": {"noise_level": 0.025}}},
        ),
        LocatorSpec(
            name="saliency",
            factory=f"{_PACKAGE}.gradients:SaliencyLocator",
            config=f"{_PACKAGE}.config:SaliencyConfig",
            summary="gradient of the answer's probability at each hidden state",
        ),
        LocatorSpec(
            name="integrated-gradients",
            factory=f"{_PACKAGE}.gradients:IntegratedGradientsLocator",
            config=f"{_PACKAGE}.config:IntegratedGradientsConfig",
            summary="gradients integrated along a path to each layer's states",
        ),
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Register ``editkit trace``."""
    return [
        CommandSpec(
            name="trace",
            module=f"{_PACKAGE}.command",
            summary="show where a model recalls a fact, or many facts on average",
        )
    ]
