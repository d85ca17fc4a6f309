"""Every shipped plugin keeps the contract that third parties are held to."""

from __future__ import annotations

from editkit.testing import EditorContract, LocatorContract


class TestNone(EditorContract):
    plugin = "none"


class TestRome(EditorContract):
    plugin = "rome"
    config = {"layer": 1, "second_moment": False, "context_lengths": [[2, 4]], "steps": 4}


class TestFt(EditorContract):
    plugin = "ft"
    config = {"layer": 1, "steps": 4}


class TestFtL(EditorContract):
    plugin = "ft+l"
    config = {"layer": 1, "steps": 4}


class TestAttnedit(EditorContract):
    plugin = "attnedit"
    config = {"layer": 1, "steps": 4, "train_bias": False}


class TestAttneditWithBias(EditorContract):
    plugin = "attnedit"
    config = {"layer": 1, "steps": 4}
    # A key's bias adds the same to all scores of a query: its gradient is rounding noise, which
    # Adam scales up to whole steps. These are 32 of 3,168 entries: 2 sqrt(32 / 3168) of the norm.
    tolerance = 0.2


class TestKn(EditorContract):
    plugin = "kn"
    config = {"steps": 4}


class TestKnowledgeNeurons(LocatorContract):
    plugin = "knowledge-neurons"
    config = {"steps": 4}
