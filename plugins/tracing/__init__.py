"""Asking where a fact lives: causal tracing (Meng et al. 2022) and gradients of hidden states."""

from __future__ import annotations

from editkit import CommandSpec, LocatorSpec, hookimpl

_PACKAGE = "editkit_plugins.tracing"
PUBLISHED: dict[str, object] = {}
PAPER = {"window_side": "above", "severed_noise": "same"}


@hookimpl
def editkit_locators() -> list[LocatorSpec]:
    """Offer ``causal-tracing``, ``saliency`` and ``integrated-gradients``."""
    return [
        LocatorSpec(
            name="causal-tracing",
            factory=f"{_PACKAGE}.locator:CausalTracingLocator",
            config=f"{_PACKAGE}.config:CausalTracingConfig",
            summary="what restoring one state brings back (Meng et al. 2022)",
            presets={"published": PUBLISHED, "paper": PAPER},
        ),
        LocatorSpec(
            name="saliency",
            factory=f"{_PACKAGE}.gradients:SaliencyLocator",
            config=f"{_PACKAGE}.config:SaliencyConfig",
            summary="size of the answer's gradient at each hidden state",
        ),
        LocatorSpec(
            name="integrated-gradients",
            factory=f"{_PACKAGE}.gradients:IntegratedGradientsLocator",
            config=f"{_PACKAGE}.config:IntegratedGradientsConfig",
            summary="gradients along the path to each layer's states, times the states",
        ),
    ]


@hookimpl
def editkit_commands() -> list[CommandSpec]:
    """Offer ``editkit trace``."""
    return [
        CommandSpec(
            name="trace",
            module=f"{_PACKAGE}.command",
            summary="show where a model recalls a fact, or many facts on average",
        )
    ]
