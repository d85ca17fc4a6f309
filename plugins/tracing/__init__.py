"""Asking where a fact lives: causal tracing (Meng et al. 2022) and gradients of hidden states."""

from __future__ import annotations
