"""The questions that show what an edit did, besides the edited prompt itself.

Users may give some of them; the others are proposed. Whether a prompt is a good question depends on
the model, so candidates from a table of common knowledge (:mod:`editkit.patches.knowledge`) are put
to the unedited model, and those that it answers suitably are kept:

- neighbours: prompts about other subjects that it answers with the old object;
- other facts of the subject: prompts that it answers confidently, with something else.

The answers of the unedited model are the reference, right or wrong.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch

from editkit.editing.deltas import WeightDelta
from editkit.editing.edited_models import EditedModels
from editkit.editing.greedy import greedy_continuations
from editkit.editing.queries import CandidateQuery, GenerationQuery
from editkit.errors import ModelError, RequestError
from editkit.models.encoding import chunks_by_tokens, padded
from editkit.models.running import forward
from editkit.patches.answers import Spoken, is_name_or_number, same_object, spoken_object
from editkit.patches.content import Question, Role
from editkit.patches.knowledge import (
    Knowledge,
    Prompt,
    knowledge_for,
    named,
    openings,
    script_of,
)
from editkit.progress import counting
from editkit.prompts import joined, words

if TYPE_CHECKING:
    from editkit.data_types import EditRequest
    from editkit.models.language_model import LanguageModel
    from editkit.records.relations import Relation

__all__ = ["Proposal", "propose", "questions_about", "unedited", "with_old_object"]

MOST = 8
"""Most proposed neighbours, and most proposed facts of the subject."""
_WORDINGS = 3
_CONFIDENT = 0.1
_NEW_TOKENS, _CHAT_TOKENS = 8, 24
_QUESTION_MARKS = ("?", "？", "؟", "\u037e")  # the last one is Greek
_ROOM = 24  # tokens left for an answer; a proposal that leaves fewer is dropped
_PER_RELATION = 2
_FEWEST = 3  # neighbours with the old object; with fewer, others are added


class _Most(NamedTuple):
    """How many candidates are put to the model.

    Attributes:
        filled: The edited prompt with other subjects.
        known: Other wordings of facts with the old object.
        about: Prompts about the subject.
        read: Answers that are read as texts.
    """

    filled: int
    known: int
    about: int
    read: int


_MOST_PLAIN = _Most(filled=40, known=20, about=30, read=12)
_MOST_IN_CHAT = _Most(filled=8, known=4, about=8, read=8)  # its template and answers are long


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Questions about an edit.

    Attributes:
        request: The edit, with the old object if the model gives one.
        questions: The edited prompt first, then wordings, neighbours and facts of the subject.
        remarks: What could not be proposed, and what is unusual, in sentences.
    """

    request: EditRequest
    questions: tuple[Question, ...]
    remarks: tuple[str, ...] = ()


def questions_about(
    model: LanguageModel,
    request: EditRequest,
    *,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
) -> list[Question]:
    """The questions that show what an edit did; arguments and errors as for :func:`propose`."""
    return list(propose(model, request, keep=keep, also=also).questions)


def propose(
    model: LanguageModel,
    request: EditRequest,
    *,
    keep: Sequence[str] = (),
    also: Sequence[str] = (),
) -> Proposal:
    """The questions that show what an edit did, and remarks about them.

    Args:
        model: The unedited model.
        request: The edit; without an old object, the model's answer is used.
        keep: Prompts with answers that should stay as they are, instead of proposed neighbours.
        also: The fact in other words, instead of proposed wordings.

    Raises:
        RequestError: A given prompt cannot be used.
        ModelError: The request is a chat, and the tokenizer has no chat template; or a given prompt
            is too long.
        PluginError: The model's table of facts cannot be read.
    """
    with counting("choosing questions", 3, unit="step") as advance:
        return _Proposer(model, request).propose(keep, also, advance)


def unedited(model: LanguageModel) -> EditedModels:
    """The model as it is, to be asked like an edited one."""
    return EditedModels(model, [WeightDelta({}, None, "none", {}, model.fingerprint)])


def with_old_object(models: EditedModels, request: EditRequest) -> tuple[EditRequest, list[str]]:
    """A request with the object that the model gives now, and remarks about it.

    Args:
        models: The unedited model.
        request: The request. An old object that it has already is kept.

    Raises:
        RequestError: The prompt cannot be used.
    """
    [answer] = _continued(models, [request.sentence], chat=request.chat)
    spoken = spoken_object(answer, request.sentence)
    given = spoken.object if spoken is not None else ""
    if same_object(given, request.target_new):
        return request, [
            f"The model already answers {given!r} to the edited prompt: there is little to change."
        ]
    if request.target_true is not None:
        if given and not _same_beginning(given, request.target_true):
            return request, [
                f"The old object is {request.target_true!r}, but the model answers {given!r}."
            ]
        return request, []
    if spoken is None:
        return request, [
            f"The model's answer {answer.strip()!r} gives no object, so none is compared with the "
            "new one."
        ]
    try:
        asked = CandidateQuery(
            0, request.sentence, (given,), separator=request.separator, chat=request.chat
        )
        models.completions(asked)
        return dataclasses.replace(request, target_true=given), []
    except (ModelError, RequestError):  # a broken character, for example
        return request, [f"The model's answer {given!r} cannot be used as the old object."]


def _same_beginning(one: str, other: str) -> bool:
    """Whether one of two objects begins with the other: ``Paris`` and ``Paris, France``."""
    return one.casefold().startswith(other.casefold()) or other.casefold().startswith(
        one.casefold()
    )


def _continued(models: EditedModels, prompts: Sequence[str], *, chat: bool) -> list[str]:
    """The model's own answers to prompts, without the prompts."""
    queries = [GenerationQuery(0, prompt, chat=chat) for prompt in prompts]
    tokens = _CHAT_TOKENS if chat else _NEW_TOKENS  # a chat's answer may repeat the question
    return [each.text for each in greedy_continuations(models, queries, new_tokens=tokens)]


@dataclasses.dataclass(frozen=True)
class _Answered:
    """A candidate with the model's own answer and its probability."""

    prompt: Prompt
    spoken: Spoken
    probability: float


class _Score(NamedTuple):
    """Probability of an answer as a whole, and whether the model gives it as its own."""

    probability: float
    is_greedy: bool


class _Proposer:
    """Chooses the questions about one edit."""

    def __init__(self, model: LanguageModel, request: EditRequest) -> None:
        self.models = unedited(model)
        self.most = _MOST_IN_CHAT if request.chat else _MOST_PLAIN
        self.request, self.remarks = with_old_object(self.models, request)
        self.is_explained = bool(self.remarks)  # why there is no old object, if there is none
        if not request.chat and request.sentence.rstrip().endswith(_QUESTION_MARKS):
            self.remarks.append(
                "The prompt is a question, which a model may continue with anything. Write a "
                "sentence up to the object, or ask in a chat: --chat (chat=True)."
            )
        self.knowledge: Knowledge = knowledge_for(model)
        objects = [o for o in (self.request.target_true, self.request.target_new) if o is not None]
        self.relation: Relation | None = self.knowledge.relation_of(
            request.prompt, request.subject, objects
        )
        if self.relation is not None and request.relation_id is None:
            self.request = dataclasses.replace(self.request, relation_id=self.relation.id)

    def propose(
        self, keep: Sequence[str], also: Sequence[str], advance: Callable[[int], None]
    ) -> Proposal:
        questions = [self._about_the_fact("edit", self.request.sentence, given=False)]
        if also:
            questions += [self._about_the_fact("wording", each, given=True) for each in also]
        else:
            proposed = self._wordings()
            questions += [self._about_the_fact("wording", each, given=False) for each in proposed]
        advance(1)
        questions += self._kept(keep) if keep else self._neighbors()
        advance(1)
        questions += self._of_subject()
        advance(1)
        return Proposal(self.request, tuple(questions), tuple(self.remarks))

    def _about_the_fact(self, role: Role, prompt: str, *, given: bool) -> Question:
        request = self.request
        answers = tuple(filter(None, (request.target_new, request.target_true)))
        return Question(role, prompt, answers, request.separator, request.chat, given)

    # ------------------------------------------------------------ the fact in other words

    def _wordings(self) -> list[str]:
        request = self.request
        texts: list[str] = []
        if self.relation is not None:
            wordings = self.knowledge.wordings(self.relation, chat=request.chat, but=request.prompt)
            texts = self._usable([named(w, request.prompt, request.subject) for w in wordings])
        if len(texts) > _WORDINGS and request.target_true is not None:
            scores = self._scores([Prompt(t, request.subject) for t in texts], request.target_true)
            answered = [t for t, score in zip(texts, scores, strict=True) if score.is_greedy]
            texts = list(dict.fromkeys([*answered, *texts]))
        texts = texts[:_WORDINGS]
        before = openings().get(script_of(request.sentence), [])
        opened = [joined(opening, request.sentence) for opening in before]
        texts += self._usable(opened)[: 1 if texts else _WORDINGS]
        if not texts:
            self.remarks.append("No other wording of the fact could be proposed.")
        return texts

    # ------------------------------------------------------------ neighbours

    def _kept(self, keep: Sequence[str]) -> list[Question]:
        """The given prompts with the model's own answers."""
        answers = _continued(self.models, keep, chat=self.request.chat)
        questions = []
        for prompt, answer in zip(keep, answers, strict=True):
            spoken = spoken_object(answer, prompt)
            if spoken is None:
                self.remarks.append(
                    f"The model's answer to {prompt!r} gives no object; only its text is compared."
                )
            questions.append(
                self._reference(
                    "neighbor", Prompt(prompt, "", is_template=True), spoken, given=True
                )
            )
        return questions

    def _neighbors(self) -> list[Question]:
        request, old = self.request, self.request.target_true
        if old is None:
            if not self.is_explained:
                self.remarks.append("No neighbours could be proposed: the old object is unknown.")
            return []
        prompts = self.knowledge.neighbors(
            request.prompt, request.subject, old, self.relation, chat=request.chat
        )
        filled, known = (self._distinct(some) for some in prompts)
        asked = filled[: self.most.filled]
        asked += _spread(known, lambda each: each.subject)[: self.most.known]
        answered = self._answered_with(old, asked)
        in_user_words = {each.prompt.subject for each in answered if each.prompt.is_template}
        best = _best(
            [
                each
                for each in answered
                if each.prompt.is_template or each.prompt.subject not in in_user_words
            ],
            lambda each: each.prompt.subject,
            most_each=1,
        )
        if len(best) < _FEWEST and self.relation is not None:
            best += self._same_relation(filled, {each.prompt.subject for each in best})
        if not best:
            reason = (
                f"the model answers none of {len(asked)} prompts about other subjects with {old!r}"
                if asked
                else "there are no prompts for this language, or the model cannot read them"
            )
            self.remarks.append(f"No neighbours could be proposed: {reason}.")
        return [self._reference("neighbor", each.prompt, each.spoken) for each in best]

    def _answered_with(self, old: str, prompts: Sequence[Prompt]) -> list[_Answered]:
        """The prompts that the model answers with the old object."""
        if self.request.chat:  # sentences, so the probability of the object alone says little
            likely = [
                each
                for each in prompts
                if self.knowledge.is_true(each.subject, each.relation, old)
                or not self.knowledge.has_fact(each.subject, each.relation)
            ]
            read = self._read(likely)
            return [each for each in read if same_object(each.spoken.object, old)]
        scored = list(zip(self._scores(prompts, old), prompts, strict=True))
        answered = [
            _Answered(prompt, Spoken(old, old), score.probability)
            for score, prompt in scored
            if score.is_greedy
        ]
        done = {each.prompt.subject for each in answered}
        if len(done) < _FEWEST:  # others may be answered with "the city of Seattle"
            others = [pair for pair in scored if pair[1].subject not in done]
            others.sort(key=lambda pair: -pair[0].probability)
            read = self._read([prompt for _, prompt in others[: self.most.read]])
            answered += [each for each in read if same_object(each.spoken.object, old)]
        return answered

    def _same_relation(self, prompts: Sequence[Prompt], done: set[str]) -> list[_Answered]:
        """The edited prompt with other subjects that the model gives the right object for."""
        others = [
            each
            for each in prompts
            if each.subject not in done and self.knowledge.has_fact(each.subject, each.relation)
        ][: self.most.read]
        answered = [
            each
            for each in self._read(others)
            if self.knowledge.is_true(each.prompt.subject, each.prompt.relation, each.spoken.object)
            and not same_object(each.spoken.object, self.request.target_new)
        ]
        best = _best(answered, lambda each: each.prompt.subject, most_each=1)[: MOST - len(done)]
        if best:
            self.remarks.append(
                f"The model answers {len(done) or 'no'} other prompt{'s' * (len(done) != 1)} with "
                f"{self.request.target_true!r}: further neighbours have other objects of the same "
                "relation."
            )
        return best

    # ------------------------------------------------------------ other facts of the subject

    def _of_subject(self) -> list[Question]:
        request = self.request
        own, fitting = self.knowledge.about(
            request.prompt, request.subject, self.relation, chat=request.chat
        )
        best = self._confident(own)
        true = [
            each
            for each in best
            if self.knowledge.is_true(request.subject, each.prompt.relation, each.spoken.object)
        ]
        best = true if len(true) >= _PER_RELATION else best
        if len(best) < _PER_RELATION:
            best += self._confident(fitting)
        if not best:
            asked = len(own) + len(fitting)
            reason = (
                f"the model answers none of {asked} prompts about it with a name or number that "
                f"has a probability of {_CONFIDENT} or more"
                if asked
                else "there are no prompts for this language"
            )
            self.remarks.append(
                f"No other facts of {request.subject!r} could be proposed: {reason}."
            )
        return [self._reference("subject", each.prompt, each.spoken) for each in best[:MOST]]

    def _confident(self, prompts: Sequence[Prompt]) -> list[_Answered]:
        """The prompts that the model answers confidently with an object of another fact."""
        spread = _spread(self._distinct(prompts), lambda each: each.relation)
        candidates = spread[: self.most.about]
        tops = self._top_probabilities([each.text for each in candidates])
        pairs = sorted(zip(tops, candidates, strict=True), key=lambda pair: -pair[0])
        read = self._read([each for top, each in pairs if top >= _CONFIDENT][: self.most.read])
        edited = [self.request.target_true or "", self.request.target_new]
        answered = [
            each
            for each in read
            if each.probability >= _CONFIDENT
            and not any(same_object(each.spoken.object, other) for other in edited)
            and self._is_plausible(each)
        ]
        return _best(answered, lambda each: each.prompt.relation, most_each=_PER_RELATION)

    def _is_plausible(self, answered: _Answered) -> bool:
        """Whether the answer looks like the object of a fact: a name, a number, a known object."""
        text, prompt = answered.spoken.object, answered.prompt
        if words(text) <= words(prompt.text):
            return False
        return is_name_or_number(text) or self.knowledge.is_object(text, prompt.relation)

    # ------------------------------------------------------------ asking

    def _reference(
        self, role: Role, prompt: Prompt, spoken: Spoken | None, *, given: bool = False
    ) -> Question:
        """A question about another fact: the unedited model's answer, and the new object."""
        request, new = self.request, self.request.target_new
        answers = () if spoken is None else (spoken.text, spoken.with_object(new))
        if not all(self._is_usable(prompt, answer) for answer in answers):
            answers = ()
        separator = request.separator if prompt.is_template else None
        return Question(role, prompt.text, answers, separator, request.chat, given)

    def _distinct(self, prompts: Iterable[Prompt]) -> list[Prompt]:
        """Each text once, without the edited prompt and what the model cannot read."""
        by_text = {each.text: each for each in reversed(list(prompts))}
        by_text.pop(self.request.sentence, None)
        kept = set(self._usable(list(by_text)))
        return [each for text, each in reversed(by_text.items()) if text in kept]

    def _usable(self, texts: Sequence[str]) -> list[str]:
        """The texts that the model can read and continue, with the request's objects after them."""
        targets = tuple(filter(None, (self.request.target_new, self.request.target_true)))
        kept = []
        for text in texts:
            if self._fits(text) and all(
                self._is_usable(Prompt(text, ""), target) for target in targets
            ):
                kept.append(text)
        return kept

    def _fits(self, text: str) -> bool:
        """Whether the model's context has room for a text and its continuation."""
        model = self.models.model
        try:
            [encoding] = model.read([text], chat=self.request.chat)
        except (ModelError, RequestError):
            return False
        return len(encoding) + _ROOM <= model.context_length

    def _is_usable(self, prompt: Prompt, answer: str) -> bool:
        try:
            self.models.completions(self._query(prompt, answer))
        except (ModelError, RequestError):
            return False
        return True

    def _query(self, prompt: Prompt, answer: str) -> CandidateQuery:
        separator = self.request.separator if prompt.is_template else None
        return CandidateQuery(
            0, prompt.text, (answer,), separator=separator, chat=self.request.chat
        )

    def _scores(self, prompts: Sequence[Prompt], answer: str) -> list[_Score]:
        return self._scored([self._query(prompt, answer) for prompt in prompts])

    def _scored(self, queries: Sequence[CandidateQuery]) -> list[_Score]:
        lengths = [len(self.models.completions(query)[0].target) for query in queries]
        scores = [score for [score] in self.models.candidate_scores(queries)]
        return [
            _Score(math.exp(-score.nll * n), score.argmax == 1)
            for score, n in zip(scores, lengths, strict=True)
        ]

    def _read(self, prompts: Sequence[Prompt]) -> list[_Answered]:
        """The model's own answers that give an object, with their probability as a whole."""
        answers = _continued(
            self.models, [prompt.text for prompt in prompts], chat=self.request.chat
        )
        given, queries = [], []
        for prompt, answer in zip(prompts, answers, strict=True):
            spoken = spoken_object(answer, prompt.text)
            if spoken is not None and self._is_usable(prompt, spoken.text):
                given.append((prompt, spoken))
                queries.append(self._query(prompt, spoken.text))
        return [
            _Answered(prompt, spoken, score.probability)
            for (prompt, spoken), score in zip(given, self._scored(queries), strict=True)
        ]

    def _top_probabilities(self, prompts: Sequence[str]) -> list[float]:
        """Probability of the most likely next token after each prompt."""
        model = self.models.model
        ids = [each.ids for each in model.read(prompts, chat=self.request.chat)]
        tops = [0.0] * len(prompts)
        for batch in chunks_by_tokens([len(each) for each in ids], self.models.token_budget):
            rows = padded([ids[number] for number in batch], model.device)  # (B, T)
            last = torch.tensor([len(ids[number]) - 1 for number in batch], device=rows.device)
            with model.frozen(), torch.no_grad():
                hidden = forward(model, rows)  # (B, T, H)
                states = hidden[torch.arange(len(batch), device=rows.device), last]  # (B, H)
                top = torch.softmax(model.head(states), dim=-1).amax(dim=-1)  # (B,)
            for number, value in zip(batch, top.tolist(), strict=True):
                tops[number] = value
        return tops


def _best(
    answered: Iterable[_Answered], key: Callable[[_Answered], str], *, most_each: int
) -> list[_Answered]:
    """The most probable ones, first one of each key, then a second one, and so on."""
    ranked = sorted(answered, key=lambda each: -each.probability)
    counts: Counter[str] = Counter()
    rounds: list[list[_Answered]] = [[] for _ in range(most_each)]
    for each in ranked:
        if counts[key(each)] < most_each:
            rounds[counts[key(each)]].append(each)
            counts[key(each)] += 1
    return [each for part in rounds for each in part][:MOST]


def _spread(prompts: Sequence[Prompt], key: Callable[[Prompt], str]) -> list[Prompt]:
    """The first prompt of each key, then the second of each, and so on."""
    counts: Counter[str] = Counter()
    numbered = []
    for prompt in prompts:
        counts[key(prompt)] += 1
        numbered.append((counts[key(prompt)], prompt))
    return [prompt for _, prompt in sorted(numbered, key=lambda pair: pair[0])]
