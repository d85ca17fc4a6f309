"""Prompts and answers as texts: the separator between them, and checks of user-supplied texts.

The default separator depends on the end of the prompt and the beginning of the answer. Most scripts
put a space there and some never do. Nothing follows an opening quote, an opening bracket, a hyphen
or a line break, and nothing precedes closing punctuation.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import Any

from editkit.errors import RequestError

__all__ = [
    "check_chat",
    "check_separator",
    "check_subject",
    "checked_text",
    "clean_fields",
    "clean_prompt",
    "clean_target",
    "default_separator",
    "fill",
    "joined",
    "subject_span",
    "trimmed",
    "trimmed_prompt",
    "words",
]

_WORD = re.compile(r"\w+")
_LINE_BREAKS = "\n\r\v\f\x85\u2028\u2029"
_CLOSING = frozenset(",.;:!?%…‰°·‥、。，．：；！？％～〜・")
_DASHES = frozenset("…‥—―")
_OPENING = frozenset("#@¿¡")
_ASCII_QUOTES = frozenset("\"'`*")
_SUFFIXES = frozenset(("s", "d", "m", "t", "ll", "re", "ve"))
_SPACELESS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x0FFF),  # Tibetan
    (0x1000, 0x109F),  # Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19FF),  # Tai Le, New Tai Lue, Khmer symbols
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x2E80, 0x312F),  # Han radicals, CJK punctuation, Hiragana, Katakana, Bopomofo
    (0x3190, 0x31FF),  # Kanbun, Bopomofo and Katakana extensions, strokes
    (0x3220, 0x325F),  # enclosed Han, without enclosed Hangul
    (0x3280, 0x4DBF),  # enclosed Han and Katakana, Han extension A
    (0x4E00, 0x9FFF),  # Han
    (0xA980, 0xA9DF),  # Javanese
    (0xA9E0, 0xA9FF),  # Myanmar extension B
    (0xAA60, 0xAA7F),  # Myanmar extension A
    (0xF900, 0xFAFF),  # Han compatibility
    (0xFE30, 0xFE4F),  # vertical forms
    (0xFF01, 0xFF9F),  # full-width forms, half-width Katakana, without Hangul
    (0x1B000, 0x1B16F),  # Kana supplement and extensions
    (0x1F200, 0x1F2FF),  # enclosed Han
    (0x20000, 0x3FFFF),  # Han extensions
)


# ---------------------------------------------------------------- texts


def checked_text(value: object, field: str) -> str:
    """Check that a value is a string that is not blank and is valid Unicode.

    Args:
        value: The value.
        field: Its name for error messages.

    Raises:
        RequestError: It is not a string, is blank, or contains half of a surrogate pair.
    """
    if not isinstance(value, str) or not value.strip():
        raise RequestError(
            f"{field} is {value!r:.60}, expected a non-empty text.",
            hint=f"Give the request a {field}.",
        )
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise RequestError(
            f"{field} is {value!a:.60}, which is not valid Unicode: character {error.start} is "
            "half of a surrogate pair.",
            hint="Decode the text again; JSON writes such a character as two \\u escapes.",
        ) from None
    return value


def trimmed_prompt(text: str) -> str:
    """A prompt without trailing spaces. Trailing line breaks have a meaning and are kept."""
    end = len(text)
    while end and text[end - 1].isspace() and text[end - 1] not in _LINE_BREAKS:
        end -= 1
    return text[:end]


def trimmed(value: str, field: str, separator: str | None) -> str:
    """An answer without surrounding white space, which the separator supplies.

    Args:
        value: The answer.
        field: Its name for error messages.
        separator: Its separator. None: the default rule.

    Raises:
        RequestError: The answer begins with white space although a separator is set.
    """
    if separator is not None and value != value.lstrip():
        raise RequestError(
            f"{field} is {value!r:.60} with the separator {separator!r}: it is not clear "
            "whether its white space belongs to the separator.",
            hint=f"Write the white space into the separator, and {field} without it.",
        )
    return value.strip()


def words(text: str) -> set[str]:
    """The distinct words of a text, in lower case.

    Each character of a script without spaces counts as a word.
    """
    distinct: set[str] = set()
    for run in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        spaceless = set(filter(_spaceless, run))
        distinct |= spaceless
        rest = "".join(" " if character in spaceless else character for character in run)
        distinct.update(rest.split())
    return distinct


# ---------------------------------------------------------------- the separator


def joined(prompt: str, target: str, separator: str | None = None) -> str:
    """Prompt and target as one text, with the given separator, or the default one if it is None."""
    if separator is None:
        separator = default_separator(prompt, target)
    return f"{prompt}{separator}{target}"


@functools.lru_cache(maxsize=1 << 16)
def default_separator(prompt: str, target: str) -> str:
    """The separator between a prompt and a target: a space or nothing.

    It is nothing if

    - the prompt ends with white space (a line break), an opening quote or bracket, a hyphen or
      slash attached to a word, or an elided word (l');
    - the target begins with closing punctuation (a comma, 's);
    - the prompt ends in a script without spaces (Han, Kana, Thai, Lao, Khmer, Myanmar, Tibetan;
      Hangul has spaces), or contains such a script and the target is written in one.
    """
    if not prompt or not target:
        return ""
    if prompt[-1].isspace() or target[0].isspace():
        return ""
    if _closes(target) or _opens(prompt):
        return ""
    last = _base(prompt)
    if _spaceless(last) or (last in _DASHES and _spaceless(_last_letter(prompt))):
        return ""
    if not _spaceless(_first_letter(target)):
        return "" if target[0].isdigit() and _spaceless(_last_letter(prompt)) else " "
    if last.isalnum():  # a foreign word or a number within a text of such a script
        return "" if any(map(_spaceless, prompt)) else " "
    return "" if _spaceless(_last_letter(prompt)) else " "


def _spaceless(character: str) -> bool:
    code = ord(character) if character else 0
    return any(first <= code <= last for first, last in _SPACELESS)


def _base(text: str) -> str:
    """The last character, skipping combining marks of scripts with spaces."""
    for character in reversed(text):
        if not unicodedata.category(character).startswith(("M", "Cf")) or _spaceless(character):
            return character
    return text[-1]


def _first_letter(text: str) -> str:
    return next((character for character in text if character.isalpha()), "")


def _last_letter(text: str) -> str:
    return next((character for character in reversed(text) if character.isalpha()), "")


def _closes(target: str) -> bool:
    """Whether a target begins with punctuation that attaches to the word before it."""
    first, rest = target[0], target[1:]
    if first in "'’":
        word = rest.split(maxsplit=1)[0] if rest.strip() else ""
        return rest[:1] != " " and (not word or word.rstrip(",.;:!?") in _SUFFIXES)
    if first in _CLOSING:
        return not rest[:1].isalnum() or not first.isascii()  # ".NET" is a word of its own
    return first in "”»"


def _opens(prompt: str) -> bool:
    """Whether a prompt ends with a character that attaches to the next word."""
    last, before = prompt[-1], prompt[:-1]
    attached = before[-1:].isalnum()
    category = unicodedata.category(last)
    if last == "“":  # closes what „ opened
        return before.count("„") <= before.count("“")
    if last == "‘":
        return before.count("‚") <= before.count("‘")
    if last == "«":
        return before.count("»") <= before.count("«")
    if last == "»":
        return before.count("«") <= before.count("»") and not attached
    if last == "”":
        return (
            not attached and "“" not in before and "„" not in before and not before.count("”") % 2
        )
    if last == "’" and (not attached or before.count("‘") > before.count("’")):
        return not attached and "‘" not in before and "‚" not in before
    if last in "'’" and attached:
        return not _quotes(before, last) % 2 and _elided(before)
    if last in _ASCII_QUOTES:
        return _opening_ascii_quote(prompt)
    if category in ("Ps", "Pi"):
        return True
    if category == "Pd":
        return before.rstrip(last)[-1:].isalnum()
    if last in "/\\":
        return not before[-1:].isspace() and bool(before)
    if last == "_":
        return attached
    if last in _OPENING:
        return not before or before[-1].isspace() or last in "¿¡"
    return category == "Sc" and not attached


def _elided(before: str) -> bool:
    """Whether an apostrophe after a letter replaces a vowel (l', dell') and is not a genitive."""
    word = before.split()[-1]
    return not (len(word) > 2 and word[-1] in "sxzSXZ") and word[-1].isalpha()


def _opening_ascii_quote(prompt: str) -> bool:
    """Whether the quote at the end opens: the number of quotes is odd, and no word precedes it."""
    mark = prompt[-1]
    attached_to = prompt.rstrip(mark)[-1:]
    if attached_to.isalnum() and not _spaceless(attached_to):
        return False
    return _quotes(prompt, mark) % 2 == 1


def _quotes(text: str, mark: str) -> int:
    """How often a mark occurs as a quote. Runs count once, apostrophes do not count."""
    n = 0
    for i, character in enumerate(text):
        if character == mark and text[i - 1 : i] != mark:
            within_word = text[i - 1 : i].isalnum() and text[i + 1 : i + 2].isalnum()
            n += not within_word
    return n


def check_separator(separator: object) -> None:
    """Check a separator.

    Raises:
        RequestError: It is not a string or None, or is not valid Unicode.
    """
    if separator is None or separator == "":
        return
    if not isinstance(separator, str):
        raise RequestError(
            f"separator is {separator!r:.60}, expected a text, or None for the default rule.",
            hint="Give '' for nothing between prompt and answer, ' ' for a space.",
        )
    checked_text(f"-{separator}", "separator")


def check_chat(chat: object) -> None:
    """Check a value of ``chat``.

    Raises:
        RequestError: It is neither True nor False.
    """
    if not isinstance(chat, bool):
        raise RequestError(
            f"chat is {chat!r:.60}, expected True or False.",
            hint="True sends the prompt as a user turn of a chat.",
        )


def check_subject(subject: object) -> None:
    """Check a subject. White space around it would belong to the prompt.

    Raises:
        RequestError: It is blank, is not valid Unicode, or has white space around it.
    """
    text = checked_text(subject, "subject")
    if text != text.strip():
        raise RequestError(
            f"subject is {text!r:.60}, which begins or ends with white space.",
            hint="Write the white space into the prompt, around '{}'.",
        )


def clean_prompt(value: object, field: str, separator: str | None) -> str:
    """A valid prompt without trailing spaces.

    Raises:
        RequestError: It is blank or not valid Unicode, or ends with spaces although a separator is
            set.
    """
    prompt = checked_text(value, field)
    cleaned = trimmed_prompt(prompt)
    if separator is not None and cleaned != prompt:
        raise RequestError(
            f"{field} is {prompt!r:.60} with the separator {separator!r}: it is not clear "
            "whether its spaces belong to the separator.",
            hint="End the prompt without a space, and write the spaces into the separator.",
        )
    return cleaned


def clean_target(value: object, field: str, separator: str | None) -> str:
    """A valid target without surrounding white space.

    Raises:
        RequestError: It is blank or not valid Unicode, or begins with white space although a
            separator is set.
    """
    return trimmed(checked_text(value, field), field, separator)


def clean_fields(data: Any, *targets: str, optional: str | None = None) -> None:
    """Check and trim the prompt and the targets of a frozen dataclass when it is made.

    Args:
        data: It has the fields ``prompt``, ``separator``, ``chat`` and perhaps ``subject``.
        targets: Names of its fields with targets.
        optional: Name of a field whose target may be None.

    Raises:
        RequestError: A value cannot be used.
    """
    check_separator(data.separator)
    check_chat(data.chat)
    if hasattr(data, "subject"):
        check_subject(data.subject)
    object.__setattr__(data, "prompt", clean_prompt(data.prompt, "prompt", data.separator))
    if optional is not None and getattr(data, optional) is not None:
        targets = (*targets, optional)
    for name in targets:
        cleaned = clean_target(getattr(data, name), name, data.separator)
        object.__setattr__(data, name, cleaned)


def fill(template: str, subject: str) -> str:
    """Replace the only ``{}`` with ``subject``. Other braces stay."""
    return template.replace("{}", subject, 1)


def subject_span(template: str, subject: str) -> tuple[int, int]:
    """Half-open span of the characters of ``subject`` in ``fill(template, subject)``."""
    start = template.index("{}")
    return start, start + len(subject)
