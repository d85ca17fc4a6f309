"""What a page shows of the figures and tables in an output folder, whoever wrote them.

A folder may come from somebody else. So files are read with limits and checked before a page embeds
them; an SVG with scripts, or with links to anything outside itself, is left out. What is left out
has a line with the reason.
"""

from __future__ import annotations

import base64
import csv
import dataclasses
import io
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

from editkit.report.tables import Entry, Line, Table

__all__ = ["FOLDERS", "Figure", "FolderContent", "folder_content"]

FOLDERS = ("figures", "traces")
"""Folders in an output folder where commands write figures and tables."""

_MOST_BYTES = 4 * 2**20  # of a file
_MOST_BYTES_TOGETHER = 24 * 2**20
_MOST_FILES = 2000
_MOST_PIXELS = 50_000_000
_MOST_ROWS, _MOST_COLUMNS, _LONGEST = 200, 16, 200
_LONGEST_TITLE, _LONGEST_TEXT = 200, 2000
_HEAVY_SVG = 2**20  # above, the PNG is preferred if it is smaller

_PNG_START = b"\x89PNG\r\n\x1a\n"
_ACTIVE = {
    *("script", "foreignobject", "iframe", "object", "embed", "audio", "video", "handler"),
    *("animate", "animatetransform", "animatemotion", "set", "a"),
}
_OUTSIDE = re.compile(r"url\((?!\s*['\"]?\s*#)|@import|javascript:", re.IGNORECASE)
_INLINE_IMAGE = re.compile(r"data:image/(png|jpeg);base64,", re.IGNORECASE)
_AVERAGES = ["kind", "role", "layer", "mean", "ci_low", "ci_high", "n"]
"""Head of the tables of average effects that traces and experiments write."""
_KINDS = {"state": "hidden states", "mlp": "MLPs", "attn": "attention"}


@dataclasses.dataclass(frozen=True)
class Figure:
    """A figure that a page can embed.

    Attributes:
        path: Its file, relative to the output folder.
        title: Its title, from its metadata; the file's name if it has none.
        description: Its description, from its metadata; may be empty.
        uri: The file as a ``data:`` address.
    """

    path: str
    title: str
    description: str
    uri: str


@dataclasses.dataclass(frozen=True)
class FolderContent:
    """What a page shows of a folder.

    Attributes:
        figures: The figures, sorted by path.
        tables: Average effects and other tables, with long ones cut.
        left_out: A line for each file that is not shown, with the reason.
    """

    figures: tuple[Figure, ...] = ()
    tables: tuple[Table, ...] = ()
    left_out: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.figures or self.tables or self.left_out)


class _LeftOut(Exception):
    """Why a file is not shown."""


def folder_content(out: Path) -> FolderContent:
    """The figures and tables in an output folder.

    Args:
        out: The output folder. Only the files directly in :data:`FOLDERS` are read, no links.
    """
    files = [file for name in FOLDERS for file in _files(out / name)]
    shown, left_out = files[:_MOST_FILES], []
    if len(files) > _MOST_FILES:
        left_out.append(f"{len(files) - _MOST_FILES} files: a page reads the first {_MOST_FILES}")
    tables, kinds, reasons = _tables(out, [each for each in shown if each.suffix == ".csv"])
    left_out += reasons
    figures, room = [], _MOST_BYTES_TOGETHER
    for versions in _versions(shown, kinds).values():
        try:
            figure, size = _figure(out, versions, room)
        except _LeftOut as reason:
            left_out.append(f"{_relative(out, versions[0])}: {reason}")
            continue
        room -= size
        figures.append(figure)
    return FolderContent(tuple(figures), tuple(tables), tuple(left_out))


def _files(folder: Path) -> list[Path]:
    """The plain files in a folder that is no link, sorted by name."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(f for f in folder.iterdir() if f.is_file() and not f.is_symlink())


def _versions(files: Sequence[Path], kinds: Mapping[Path, set[str]]) -> dict[Path, list[Path]]:
    """The SVG and PNG files of each figure, by path without suffix; SVG first.

    Panels of average effects, which are in a figure of their own too, are skipped.
    """
    panels = {table.with_name(f"{table.stem}-{kind}") for table in kinds for kind in kinds[table]}
    versions: dict[Path, list[Path]] = {}
    for file in files:
        if file.suffix in (".svg", ".png") and file.with_suffix("") not in panels:
            versions.setdefault(file.with_suffix(""), []).append(file)
    return {stem: sorted(own, key=lambda f: f.suffix != ".svg") for stem, own in versions.items()}


def _relative(out: Path, file: Path) -> str:
    return file.relative_to(out).as_posix()


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            content = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise _LeftOut(error.strerror or str(error)) from error
    if len(content) > _MOST_BYTES:
        raise _LeftOut(f"larger than {_MOST_BYTES // 2**20} MB")
    return content


# ---------------------------------------------------------------- figures


def _figure(out: Path, versions: Sequence[Path], room: int) -> tuple[Figure, int]:
    """The first version of a figure that can be shown, and its size in bytes."""
    usable: list[tuple[int, Path, bytes, str, str]] = []
    reason = _LeftOut("no version")
    for file in versions:
        try:
            content = _read(file)
            words = _words_of_svg(content) if file.suffix == ".svg" else _words_of_png(content)
        except _LeftOut as problem:
            reason = problem if not usable and file is versions[0] else reason
            continue
        usable.append((len(content), file, content, *words))
    if not usable:
        raise reason
    chosen = usable[0] if usable[0][0] <= _HEAVY_SVG else min(usable)
    size, file, content, title, description = chosen
    if size > room:
        raise _LeftOut(f"the page has {_MOST_BYTES_TOGETHER // 2**20} MB of figures without it")
    form = "svg+xml" if file.suffix == ".svg" else "png"
    uri = f"data:image/{form};base64,{base64.b64encode(content).decode()}"
    title = _cut(title, _LONGEST_TITLE) or file.stem
    return Figure(_relative(out, file), title, _cut(description, _LONGEST_TEXT), uri), size


def _words_of_svg(content: bytes) -> tuple[str, str]:
    """Title and description in an SVG's metadata.

    Raises:
        _LeftOut: It is no SVG, or more than a drawing.
    """
    try:
        text = content.decode()
        if "<!ENTITY" in text:
            raise _LeftOut("it declares entities")
        root = ElementTree.fromstring(text)
    except (UnicodeDecodeError, ElementTree.ParseError, ValueError, RecursionError) as error:
        raise _LeftOut("not an SVG file in UTF-8") from error
    if _local(root.tag) != "svg":
        raise _LeftOut("not an SVG file in UTF-8")
    words = {"title": "", "description": ""}
    for element in root.iter():
        tag = _local(element.tag)
        if tag in _ACTIVE:
            raise _LeftOut(f"it has an element {tag!r}, and only drawings are shown")
        for name, value in element.attrib.items():
            _check_attribute(_local(name), value)
        if tag == "style" and _OUTSIDE.search(element.text or ""):
            raise _LeftOut("its style refers to something outside the file")
        if tag in words and not words[tag]:
            words[tag] = (element.text or "").strip()
    return words["title"], words["description"]


def _check_attribute(name: str, value: str) -> None:
    if name.startswith("on"):
        raise _LeftOut(f"it has a script in the attribute {name!r}")
    is_link = name in ("href", "src")
    if is_link and not value.startswith("#") and not _INLINE_IMAGE.match(value):
        raise _LeftOut("it refers to something outside the file")
    if not is_link and _OUTSIDE.search(value):
        raise _LeftOut("it refers to something outside the file")


def _local(name: object) -> str:
    """A name in lower case without its namespace; empty for comments."""
    return name.rpartition("}")[2].lower() if isinstance(name, str) else ""


def _words_of_png(content: bytes) -> tuple[str, str]:
    """Title and description in a PNG's text chunks.

    Raises:
        _LeftOut: It is no PNG, or a huge one.
    """
    if not content.startswith(_PNG_START) or content[12:16] != b"IHDR":
        raise _LeftOut("not a PNG file")
    width, height = int.from_bytes(content[16:20], "big"), int.from_bytes(content[20:24], "big")
    if not 0 < width * height <= _MOST_PIXELS:
        raise _LeftOut(f"{width} by {height} pixels")
    words = {b"Title": "", b"Description": ""}
    for kind, data in _chunks(content):
        key, _, rest = data.partition(b"\0")
        if key in words and kind == b"tEXt":
            words[key] = rest.decode("latin-1")
        elif key in words and kind == b"iTXt" and rest[:1] == b"\0":  # not compressed
            words[key] = rest[2:].split(b"\0", 2)[-1].decode(errors="replace")
    return words[b"Title"].strip(), words[b"Description"].strip()


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and data of a PNG's chunks."""
    place = len(_PNG_START)
    while place + 12 <= len(content):
        length = int.from_bytes(content[place : place + 4], "big")
        yield content[place + 4 : place + 8], content[place + 8 : place + 8 + length]
        place += 12 + length


def _cut(text: str, length: int) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


# ---------------------------------------------------------------- tables


def _tables(
    out: Path, files: Sequence[Path]
) -> tuple[list[Table], dict[Path, set[str]], list[str]]:
    """The tables in CSV files, the kinds of each file of average effects, and what is left out.

    Tables of single traces are not shown: their figures are.
    """
    tables, left_out = list[Table](), list[str]()
    kinds: dict[Path, set[str]] = {}
    for file in files:
        name = _relative(out, file)
        try:
            head, *rows = csv.reader(io.StringIO(_read(file).decode("utf-8-sig")), strict=True)
            if head == _AVERAGES:
                own = _averages(name, rows)
                kinds[file] = {row[0] for row in rows}
                tables += own
            elif file.parent.name != "traces":
                tables.append(_plain_table(name, file.stem, head, rows))
        except _LeftOut as reason:
            left_out.append(f"{name}: {reason}")
        except (UnicodeDecodeError, csv.Error, ValueError) as error:
            left_out.append(f"{name}: not a table in CSV ({error})"[:_LONGEST])
    return tables, kinds, left_out


def _averages(name: str, rows: Sequence[Sequence[str]]) -> list[Table]:
    """Average effects by role and layer, a table per kind of site."""
    effects: dict[str, dict[str, dict[int, tuple[float, ...]]]] = {}
    for kind, role, layer, *numbers in rows:
        mean, low, high, n = (float(each) if each else math.nan for each in numbers)
        effects.setdefault(kind, {}).setdefault(role, {})[int(layer)] = (mean, low, high, n)
    tables = []
    for kind, roles in effects.items():
        layers = sorted({layer for own in roles.values() for layer in own})
        means = [own[layer][0] for own in roles.values() for layer in own]
        largest = max((abs(mean) for mean in means if math.isfinite(mean)), default=0.0)
        lines = [
            Line(
                (
                    Entry(_cut(role, _LONGEST)),
                    *(_effect(own.get(layer), largest) for layer in layers),
                )
            )
            for role, own in roles.items()
        ]
        counts = sorted({own[layer][3] for own in roles.values() for layer in own})
        facts = " to ".join(f"{n:g}" for n in dict.fromkeys((counts[0], counts[-1])))
        tables.append(
            Table(
                name="averages",
                title=f"{Path(name).stem}: average effects of restored {_KINDS.get(kind, kind)}",
                head=("tokens", *map(str, layers)),
                lines=tuple(lines),
                notes=(
                    f"Effect on the answer's probability x 100, by layer, over {facts} facts; "
                    f"intervals are in {name}.",
                ),
            )
        )
    return tables


def _effect(numbers: tuple[float, ...] | None, largest: float) -> Entry:
    if numbers is None or not math.isfinite(numbers[0]):
        return Entry("-")
    level = max(numbers[0], 0.0) / largest if largest else None
    return Entry(f"{100 * numbers[0]:.1f}", level=level)


def _plain_table(
    name: str, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]
) -> Table:
    if any(len(row) != len(head) for row in rows):
        raise _LeftOut("its lines have different numbers of columns")
    is_cut = len(rows) > _MOST_ROWS or len(head) > _MOST_COLUMNS
    return Table(
        name="file",
        title=_cut(title, _LONGEST_TITLE),
        head=tuple(_cut(text, _LONGEST) for text in head[:_MOST_COLUMNS]),
        lines=tuple(
            Line(tuple(Entry(_cut(_rounded(text), _LONGEST)) for text in row[:_MOST_COLUMNS]))
            for row in rows[:_MOST_ROWS]
        ),
        notes=(f"Cut; all {len(rows)} lines are in {name}.",) if is_cut else (),
    )


def _rounded(text: str) -> str:
    """A fraction with four significant digits; other texts as they are."""
    try:
        return f"{float(text):.4g}" if "." in text else text
    except ValueError:
        return text
