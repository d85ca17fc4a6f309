"""Common mistakes in calls from Python, each with a sentence that says how to write it instead.

``expect(model, "LanguageModel", "model", "edit(model, requests)")`` passes for a model, and for a
stand-in with the same methods: an object of a class that is neither ours nor a library's. Kinds are
compared by the names of our classes, so that a check imports nothing.
"""

from __future__ import annotations

import functools
import reprlib
from collections.abc import Iterable, Mapping, Set
from pathlib import PurePath
from typing import Any

from editkit.errors import UsageError

__all__ = ["expect", "expect_list", "expect_path"]

_OURS = {
    "Attempt",
    "CandidateQuery",
    "Consequence",
    "Dataset",
    "EditRequest",
    "EditedModels",
    "Editor",
    "Fact",
    "GenerationQuery",
    "Judge",
    "LanguageModel",
    "Locator",
    "Metric",
    "ModelMetric",
    "OpenQuestion",
    "Patch",
    "Probe",
    "Record",
    "Records",
    "TextQuery",
    "WeightDelta",
}
_OF_LIBRARIES = {
    ("torch", "Module"): "network",
    ("torch", "Tensor"): "tensor",
    ("transformers", "PreTrainedTokenizerBase"): "tokenizer",
    ("builtins", "str"): "text",
    ("builtins", "NoneType"): "nothing",
    ("builtins", "list"): "list",
    ("builtins", "tuple"): "list",
    ("builtins", "type"): "class",
    ("builtins", "dict"): "mapping",
    ("pathlib", "PurePath"): "path",
    ("contextlib", "_GeneratorContextManager"): "block",
}
_WORDS = {
    "LanguageModel": "a LanguageModel",
    "EditedModels": "EditedModels",
    "EditRequest": "an EditRequest",
    "Attempt": "an Attempt",
    "OpenQuestion": "an OpenQuestion",
    "Editor": "an Editor",
    "text": "a text",
    "mapping": "a mapping",
}
_LIBRARIES = {"builtins", "collections", "numpy", "pandas", "pathlib", "torch", "transformers"}
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = 60  # characters
_SHORT.maxdict = 2

_LISTS_OF = {  # expected kind -> how to make a list of what was given instead
    "EditRequest": {
        "EditRequest": "Put it in a list: [request].",
        "mapping": "Write it as [EditRequest(prompt, subject, target_new)].",
        "text": "Write it as [EditRequest('... {} ...', subject, target_new)].",
        "Record": "Use its request: [record.request].",
        "Records": "Use their requests: [record.request for record in records.records].",
        "WeightDelta": "Its requests are delta.requests.",
        "Patch": "Its requests are patch.requests.",
        "Fact": "Facts are traced; write it as [EditRequest(prompt, subject, target_new)].",
    },
    "WeightDelta": {
        "WeightDelta": "Put it in a list: [delta].",
        "Patch": "Put its delta in a list: [patch.delta].",
        "EditRequest": "Make the edit first: deltas = editor.edit(model, [request]).",
        "text": "Read the file first: [editkit.load_delta(path)].",
        "path": "Read the file first: [editkit.load_delta(path)].",
        "EditedModels": "These models have them already: models.deltas.",
    },
    "Patch": {
        "Patch": "Put it in a list: [patch].",
        "WeightDelta": "Put a patch of it in a list: [Patch(delta)].",
        "text": "Read the file first: [Patch.load(path)].",
        "path": "Read the file first: [Patch.load(path)].",
    },
    "Record": {
        "Record": "Put it in a list: [record].",
        "Records": "The list is records.records.",
        "Dataset": "Load it first: dataset.load().records.",
        "EditRequest": "Make a record of it: [Record(0, request)].",
        "mapping": "Write it as [Record(case_id, request, probes)].",
    },
    "Fact": {
        "Fact": "Put it in a list: [fact].",
        "EditRequest": "Write it as [Fact(request.sentence, request.subject)].",
        "mapping": "Write it as [Fact(prompt, subject, answer)].",
        "text": "Write it as [Fact(prompt, subject)].",
    },
    "text": {
        "text": "Put it in a list: [text].",
        "EditRequest": "Its text is [request.sentence].",
    },
    "Attempt": {
        "Attempt": "Put it in a list: [attempt].",
        "OpenQuestion": "Add what the model wrote: [Attempt(question, text)].",
        "text": "Write it as [Attempt(question, text)].",
    },
    "GenerationQuery": {"text": "Write it as [GenerationQuery(0, prompt)]."},
    "CandidateQuery": {"text": "Write it as [CandidateQuery(0, prompt, candidates)]."},
    "TextQuery": {"text": "Write it as [TextQuery(0, text)]."},
}
_ELEMENTS_OF = {  # expected kind -> what to do with each element
    "EditRequest": {
        "mapping": "Write it as EditRequest(prompt, subject, target_new).",
        "text": "Write it as EditRequest('... {} ...', subject, target_new).",
        "Record": "Use the requests: [record.request for record in records].",
        "Fact": "Facts are traced; write it as EditRequest(prompt, subject, target_new).",
        "list": "Leave out one pair of brackets.",
    },
    "WeightDelta": {
        "Patch": "Use their deltas: [patch.delta for patch in patches].",
        "EditRequest": "Make the edits first: deltas = editor.edit(model, requests).",
        "text": "Read the files first: editkit.load_delta(path).",
        "path": "Read the files first: editkit.load_delta(path).",
        "list": "Leave out one pair of brackets: edit() returns a list.",
        "mapping": "step() returns two values: delta, state = editor.step(model, requests, state).",
    },
    "Patch": {
        "WeightDelta": "Make patches of them: [Patch(delta) for delta in deltas].",
        "text": "Read the files first: Patch.load(path).",
        "path": "Read the files first: Patch.load(path).",
    },
    "Record": {
        "EditRequest": "Make records of them: Record(number, request).",
        "mapping": "Write it as Record(case_id, request, probes).",
    },
    "Fact": {
        "EditRequest": "Write it as Fact(request.sentence, request.subject).",
        "mapping": "Write it as Fact(prompt, subject, answer).",
        "text": "Write it as Fact(prompt, subject).",
    },
}
_SINGLE = {  # expected kind -> how to get one from what was given instead
    "LanguageModel": {
        "text": "Load it first: editkit.load_model(name).",
        "path": "Load it first: editkit.load_model(path).",
        "network": "Add its tokenizer: editkit.LanguageModel(network, tokenizer, name='...').",
        "nothing": "Load one: editkit.load_model('atlas').",
        "EditedModels": "The unedited model is models.model.",
        "block": "Open the block, and use the model inside: with applied(model, delta): ...",
        "class": "Load a model: editkit.load_model('atlas').",
    },
    "EditedModels": {
        "LanguageModel": "Combine it with its edits: EditedModels(model, deltas).",
        "WeightDelta": "Combine it with its model: EditedModels(model, [delta]).",
        "Patch": "Combine it with its model: EditedModels(model, [patch.delta]).",
        "list of WeightDelta": "Combine them with their model: EditedModels(model, deltas).",
    },
    "WeightDelta": {
        "Patch": "Its delta is patch.delta; patch.save(path) keeps its checks, too.",
        "list": "Give one delta at a time.",
        "EditRequest": "Make the edit first: [delta] = editor.edit(model, [request]).",
    },
    "Patch": {
        "WeightDelta": "Make a patch of it: Patch(delta).",
        "text": "Read the file first: Patch.load(path).",
        "path": "Read the file first: Patch.load(path).",
    },
    "EditRequest": {
        "mapping": "Write it as EditRequest(prompt, subject, target_new).",
        "text": "Write it as EditRequest('... {} ...', subject, target_new).",
    },
    "name": {
        "path": "Name one that 'editkit plugins' lists. A file is one of its values: "
        "make_dataset('counterfact', path='records.json').",
        "Editor": "Give its name: editor.name.",
        "class": "Give the name under which it is installed; 'editkit plugins' lists them.",
    },
    "mapping": {"nothing": "Give an empty one: {}."},
    "text": {
        "EditRequest": "Its parts are request.sentence, request.subject and request.target_new.",
    },
    "Editor": {
        "class": "Give an editor's name, or make one: make_editor(name, model).",
    },
}


def expect(value: object, kind: str, name: str, call: str) -> None:
    """Refuse a value of the wrong kind.

    Args:
        value: The value.
        kind: Name of one of our classes, or ``text``, ``name`` or ``mapping``.
        name: The parameter.
        call: The function with its parameters, for messages.

    Raises:
        UsageError: It is of another kind.
    """
    if _kind_of(value) not in ("text" if kind == "name" else kind, ""):
        hints = _SINGLE.get(kind, {})
        of_list = isinstance(value, list | tuple) and value and f"list of {_kind_of(value[0])}"
        hint = hints.get(of_list or "") or hints.get(_kind_of(value))
        raise _wrong(value, _words(kind), name, call, hint)


def expect_list(values: Iterable[object], kind: str, name: str, call: str) -> None:
    """Refuse anything but a list or another sequence with elements of one kind.

    Arguments and errors as for :func:`expect`.
    """
    if _kind_of(values) in ("text", "mapping") or not _is_sequence(values):
        if hasattr(values, "__next__") or isinstance(values, Set):
            hint: str | None = f"Make it a list: list({name})."
        else:
            hint = _LISTS_OF.get(kind, {}).get(_kind_of(values))
        raise _wrong(values, f"a list of {_plural(kind)}", name, call, hint)
    for place, value in enumerate(values):
        if _kind_of(value) not in (kind, ""):
            hint = _ELEMENTS_OF.get(kind, {}).get(_kind_of(value))
            raise _wrong(value, _words(kind), f"{name}[{place}]", call, hint)


def expect_path(value: object, name: str, call: str, expected: str = "the path of a file") -> None:
    """Refuse anything but a text or a path; arguments and errors as for :func:`expect`."""
    if _kind_of(value) not in ("text", "path"):
        raise _wrong(value, expected, name, call, None)


def _is_sequence(values: object) -> bool:
    return hasattr(values, "__len__") and hasattr(values, "__getitem__")


@functools.lru_cache(maxsize=512)
def _kind(cls: type) -> str | None:
    """The kind of a class's instances; None for classes of others, which may stand in for ours."""
    bases = [(base.__module__.partition(".")[0], base.__name__) for base in cls.__mro__[:-1]]
    for origin, name in bases:
        if origin == "editkit" and name.removesuffix("Content") in _OURS:
            return name.removesuffix("Content")
        if (origin, name) in _OF_LIBRARIES:
            return _OF_LIBRARIES[origin, name]
    known = any(origin in _LIBRARIES or origin == "editkit" for origin, _ in bases)
    return cls.__name__ if known or cls is object else None


def _kind_of(value: object) -> str:
    if isinstance(value, Mapping):
        return "mapping"
    cls: Any = type(value)
    return "class" if isinstance(value, type) else _kind(cls) or ""


def _words(kind: str) -> str:
    return _WORDS.get(kind, f"a {kind}")


def _plural(noun: str) -> str:
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def _wrong(value: object, expected: str, name: str, call: str, hint: str | None) -> UsageError:
    """The error for an argument of the wrong kind; without a hint, it may be in another's place."""
    misplaced = _kind_of(value) in _OURS or isinstance(value, str | list | tuple)
    if hint is None:
        order = misplaced and "[" not in name and "," in call
        hint = f"The order of the arguments is {call}." if order else f"Give {expected}."
    return UsageError(f"{call}: got {_shown(value)} as {name}, expected {expected}.", hint=hint)


def _shown(value: Any) -> str:
    """A value in a few words, whatever it is; its own ``repr`` might be long, slow or broken."""
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    if type(value) in (str, bytes, dict):
        return f"the {name} {_SHORT.repr(value)}"
    if isinstance(value, PurePath):
        return f"the path {_SHORT.repr(str(value))}"
    article = "an" if name[0] in "AEIOUaeiou" else "a"
    if isinstance(value, list | tuple):
        kinds = {type(each).__name__ for each in value}
        n, inside = len(value), kinds.pop() if len(kinds) == 1 else "value"
        return f"{article} {name} of {n} {inside if n == 1 else _plural(inside)}"
    return name if name in ("EditedModels", "Records") else f"{article} {name}"
