"""What the page does with its model: offer editors, edit, ask, trace, discard.

Nothing here knows the web. Every method that computes runs in the model's thread
(:mod:`editkit_plugins.demo.worker`).
"""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from editkit import (
    EditedModels,
    EditkitError,
    EditorSpec,
    EditRequest,
    Patch,
    RequestError,
    WeightDelta,
    counting,
    make_editor,
    trace,
)
from editkit.figures import png_bytes
from editkit.models import shape_of
from editkit.patches.asking import ask_all
from editkit.patches.content import Answer, Question
from editkit.patches.making import patches_for
from editkit.patches.requesting import given_prompts, request_of
from editkit.registry.plugins import default_registry
from editkit.storage.file_names import safe_file_name
from editkit_plugins.demo.quiet import silenced

if TYPE_CHECKING:
    from editkit import LanguageModel

_KEPT = 16  # edits whose patches stay in memory
_TOKENS = 32  # of a request, for the question whether an editor reads statistics


@dataclasses.dataclass(frozen=True)
class Offered:
    """An installed editor and whether it can edit the model.

    Attributes:
        name: The editor.
        summary: One line about it.
        slow: Whether its first edit of a model computes statistics of a corpus.
        refused: Why it cannot edit the model; None if it can.
    """

    name: str
    summary: str
    slow: bool = False
    refused: str | None = None


@dataclasses.dataclass(frozen=True)
class Wish:
    """What the user wants to change.

    Attributes:
        prompt: A sentence up to the object, with the subject written out.
        subject: The subject.
        to: The new object.
        chat: Whether prompts are a user's turns in a chat.
        keep: Prompts with answers that should stay; empty: proposed.
        also: The fact in other words; empty: proposed.
    """

    prompt: str
    subject: str
    to: str
    chat: bool = False
    keep: tuple[str, ...] = ()
    also: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Made:
    """One press of the button: the patches of several editors for the same fact.

    Attributes:
        key: Names it in addresses; cannot be guessed.
        request: The fact, with the answer that the model gave before.
        patches: By editor.
        failed: Why an editor made none, by editor.
        fingerprint: Identity of the model that was edited.
    """

    key: str
    request: EditRequest
    patches: dict[str, Patch]
    failed: dict[str, str]
    fingerprint: str

    @property
    def objects(self) -> tuple[str, ...]:
        """The new object, and the old one if the model gave one."""
        return tuple(filter(None, (self.request.target_new, self.request.target_true)))


@dataclasses.dataclass(frozen=True)
class Traced:
    """A causal trace, or why there is none.

    Attributes:
        label: The model: ``unedited``, ``edited by rome``.
        picture: A PNG file.
        problem: Why there is no picture.
    """

    label: str
    picture: bytes = b""
    problem: str = ""


class Studio:
    """A model, and the edits that users of the page made of it.

    Args:
        model: The model. It is never changed.
        folder: An existing folder for the files of patches.
    """

    def __init__(self, model: LanguageModel, folder: Path) -> None:
        self.model = model
        self._folder = folder
        self._made: dict[str, Made] = {}

    def editors(self) -> list[Offered]:
        """The installed editors, in alphabetical order, without the baseline ``none``."""
        specs = [offer.spec for offer in default_registry().offers("editor")]
        known = (spec for spec in specs if isinstance(spec, EditorSpec) and spec.name != "none")
        with silenced("editkit"):  # an editor that is used reports its values
            return sorted(map(self._offered, known), key=lambda each: each.name)

    def _offered(self, spec: EditorSpec) -> Offered:
        model = self.model
        try:
            editor = make_editor(spec.name, model)
            editor.config.check_for(model.source or model.name, model.base_fingerprint, spec.name)
            editor.check(model)
            shape = shape_of(model.hf.config)
            needed = editor.requirements(shape, requests=1, tokens=_TOKENS)
        except EditkitError as error:
            return Offered(spec.name, spec.summary, refused=str(error))
        slow = needed is not None and bool(needed.statistics)
        return Offered(spec.name, spec.summary, slow=slow)

    def edit(self, wish: Wish, editors: Sequence[str]) -> Made:
        """Let each editor change the fact.

        Raises:
            RequestError: No editor is chosen, or the fact cannot be edited.
            EditkitError: No editor made a patch; the reason of the first.
        """
        if not editors:
            raise RequestError("no editor is chosen.", hint="Choose at least one.")
        fields = {"sentence": wish.prompt, "subject": wish.subject, "new answer": wish.to}
        for name, text in fields.items():
            if not text.strip():
                raise RequestError(f"the {name} is empty.", hint="Click an example to see one.")
        request = request_of(
            wish.prompt.strip(), subject=wish.subject.strip(), to=wish.to.strip(), chat=wish.chat
        )
        given = {
            name: given_prompts(prompts, name, request)
            for name, prompts in (("keep", wish.keep), ("also", wish.also))
        }
        methods = [make_editor(name, self.model) for name in editors]
        result = patches_for(self.model, request, methods, **given)
        for failure in () if result.patches else result.failures.values():
            raise failure
        made = Made(
            key=secrets.token_urlsafe(16),
            request=result.patches[0].requests[0],
            patches={patch.editor: patch for patch in result.patches},
            failed={name: str(error) for name, error in result.failures.items()},
            fingerprint=self.model.fingerprint,
        )
        self._keep(made)
        return made

    def _keep(self, made: Made) -> None:
        for editor, patch in made.patches.items():
            patch.save(self._path(made.key, editor))
        self._made[made.key] = made
        while len(self._made) > _KEPT:
            self._forget(next(iter(self._made)))

    def _path(self, key: str, editor: str) -> Path:
        return self._folder / f"{key}-{safe_file_name(editor)}.safetensors"

    def _forget(self, key: str) -> None:
        self._made.pop(key, None)
        for file in self._folder.glob(f"{key}-*.safetensors"):
            file.unlink(missing_ok=True)

    def made(self, key: str | None) -> Made:
        """The edits with that key.

        Raises:
            RequestError: They were taken back, or many others were made since.
        """
        if key is None or key not in self._made:
            raise RequestError("there is no edited model.", hint="Choose a fact and press Edit.")
        return self._made[key]

    def file(self, key: str, editor: str) -> tuple[Path, str] | None:
        """A patch's file and the name to download it under; None if there is none."""
        made = self._made.get(key)
        if made is None or editor not in made.patches:
            return None
        words = safe_file_name(f"{made.request.subject}-{made.request.target_new}-{editor}")
        return self._path(key, editor), f"{words}.safetensors"

    def sizes(self, made: Made) -> dict[str, int]:
        """Bytes of each patch's file, by editor."""
        return {name: self._path(made.key, name).stat().st_size for name in made.patches}

    def ask(self, key: str | None, prompt: str, *, chat: bool) -> list[Answer]:
        """What the unedited model and each edited one answer to a prompt, in this order.

        The probabilities are those of the new object and of the old one.

        Raises:
            RequestError: There is no edited model, or the prompt is empty.
        """
        made = self.made(key)
        if not prompt.strip():
            raise RequestError("the prompt is empty.", hint="Write a sentence to continue.")
        question = Question("free", prompt.strip(), made.objects, chat=chat, given=True)
        deltas = [self._none(), *(patch.delta for patch in made.patches.values())]
        return [answer for [answer] in ask_all(EditedModels(self.model, deltas), [question])]

    def _none(self) -> WeightDelta:
        return WeightDelta({}, None, "none", {}, self.model.fingerprint)

    def traces(self, key: str | None, editor: str) -> list[Traced]:
        """Causal traces: the old fact in the model, and the new one in the edited model.

        Raises:
            RequestError: There is no edited model.
            EditkitError: The old fact cannot be traced.
        """
        made = self.made(key)
        if editor not in made.patches:
            raise RequestError("no edited model is chosen.", hint="Choose one next to Trace.")
        edited = f"edited by {editor}"
        with counting("causal traces", 2, unit="trace") as advance:
            shown = [Traced("unedited", self._picture(made.request, made.request.target_true))]
            advance()
            try:
                with made.patches[editor].applied(self.model):
                    shown.append(
                        Traced(edited, self._picture(made.request, made.request.target_new))
                    )
            except EditkitError as error:  # an edit that is not a change of weights
                shown.append(Traced(edited, problem=str(error)))
            advance()
        return shown

    def _picture(self, request: EditRequest, answer: str | None) -> bytes:
        traced = trace(
            self.model,
            request.sentence,
            request.subject,
            answer,
            separator=request.separator,
            chat=request.chat,
        )
        return png_bytes(traced.plot())

    def take_back(self, key: str | None) -> tuple[Made, bool, Answer]:
        """Discard edits and look at the model again.

        Returns:
            The edits, whether the model's identity is that before the edit, and its answer to the
            edited prompt.

        Raises:
            RequestError: There are no such edits.
        """
        made = self.made(key)
        answer = self.ask(key, made.request.sentence, chat=made.request.chat)[0]
        self._forget(made.key)
        return made, self.model.fingerprint == made.fingerprint, answer
