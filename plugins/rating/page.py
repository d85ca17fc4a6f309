"""The pages that a rater sees. They work without JavaScript; keys need it."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from html import escape

from editkit import EditRequest
from editkit_plugins.rating.comparisons import Comparison
from editkit_plugins.rating.questions import ANSWERS, QUESTIONS

_KEYS = {"left": "1", "same": "2", "right": "3"}


def question_page(
    comparison: Comparison, *, done: int, total: int, answers: Mapping[str, str] | None = None
) -> str:
    """Two texts and what is asked about them; nothing tells whose they are.

    Args:
        comparison: What is compared.
        done: Comparisons that this rater has answered.
        total: All comparisons.
        answers: What the rater said before, when coming back to it.
    """
    request = comparison.request
    true = (
        f"<p>Before it was changed, the answer was: {_text(request.target_true)}.</p>"
        if (request.target_true)
        else ""
    )
    questions = "".join(
        _question(name, wording, (answers or {}).get(name)) for name, wording in QUESTIONS.items()
    )
    back = (
        f'<a class="back" href="/?number={comparison.number - 1}">Back</a>'
        if comparison.number
        else ""
    )
    return _page(
        f"""
<p class="progress"><progress value="{done}" max="{total}"></progress>
<span>{comparison.number + 1} of {total}</span></p>
<section class="statement">
<p>Suppose that this is true:</p>
<blockquote>{_statement(request)}</blockquote>
{true}
</section>
<form method="post" action="/">
<input type="hidden" name="number" value="{comparison.number}">
<div class="texts">
{_article("A", comparison.texts[0])}
{_article("B", comparison.texts[1])}
</div>
{questions}
<p class="buttons">{back}<button type="submit">Next</button></p>
</form>
<p class="keys">Keys: <kbd>1</kbd> A, <kbd>2</kbd> about the same, <kbd>3</kbd> B, for one question
after the other; <kbd>Enter</kbd> next, <kbd>Backspace</kbd> back.</p>
"""
    )


def finished_page(total: int) -> str:
    """What is seen when everything is rated."""
    return _page(
        f"""
<p class="progress"><progress value="{total}" max="{total}"></progress>
<span>{total} of {total}</span></p>
<section class="statement">
<h1>Thank you: everything is rated.</h1>
<p>All answers are kept. This page can be closed; Ctrl-C where <code>editkit rate</code> runs shows
what came out.</p>
</section>
<p class="buttons"><a class="back" href="/?number={total - 1}">Back</a></p>
"""
    )


def message_page(message: str) -> str:
    """A page that says why something was not done."""
    return _page(
        f'<section class="statement"><p>{_text(message)}</p></section>'
        '<p class="buttons"><a class="back" href="/">Go on</a></p>'
    )


def _question(name: str, wording: str, answered: str | None) -> str:
    choices = "".join(
        f'<label><input type="radio" name="{name}" value="{answer}" required'
        f"{' checked' if answer == answered else ''}> <span>{label}</span> "
        f"<kbd>{_KEYS[answer]}</kbd></label>"
        for answer, label in ANSWERS.items()
    )
    return f"<fieldset><legend>{_text(wording)}</legend><div>{choices}</div></fieldset>"


def _article(name: str, text: str) -> str:
    return f"<article><h2>{name}</h2><p>{_text(text)}</p></article>"


def _statement(request: EditRequest) -> str:
    """What is supposed to be true as the model learns it, the new object marked."""
    before = request.statement.removesuffix(request.target_new)
    return f"{_text(before)}<strong>{_text(request.target_new)}</strong>"


def _text(text: str | None) -> str:
    return escape(unicodedata.normalize("NFC", text or ""))


def _page(body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Which text is better?</title>
<link rel="icon" href="data:,">
<link rel="stylesheet" href="/style.css">
<script src="/script.js" defer></script>
</head>
<body>
<main>
{body}
</main>
</body>
</html>
"""
