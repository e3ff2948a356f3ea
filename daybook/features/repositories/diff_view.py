"""The diff of a change as the pages show it: tables of lines, whose HTML is made here.

All of a patch is hostile text: an agent has written its lines, and the names of its files. Each
part goes through `_text`, which escapes it and shows hidden characters by name.

What a page shows is bounded. If a patch has more, small files are shown before large ones, and
generated files last.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from markupsafe import Markup, escape

from daybook.features.repositories import git, patches
from daybook.features.repositories.hidden_characters import HIDDEN, name_of
from daybook.features.repositories.highlighting import Highlighter, Token, lexer_of
from daybook.features.repositories.patches import FilePatch, Hunk, Parts, PatchLine

MAX_FILES = 300
"""Maximum number of files that a page shows."""
MAX_LINES = 3_000
"""Maximum number of lines that a page shows, with the unchanged ones."""
MAX_CHARACTERS = 500_000
MAX_LINE_CHARACTERS = 1_000
"""Maximum length of the shown part of a line."""
MAX_HIDDEN_CHARACTERS = 100
"""Maximum number of hidden characters that a line shows."""

_STATES = {"added": "new", "deleted": "deleted", "renamed": "renamed", "copied": "copied"}
_CLASSES = {" ": "", "-": "del", "+": "add"}
_SIGNS = {" ": "", "-": "−", "+": "+"}
_EMPTY = '<td class="n none"></td><td class="g none"></td><td class="c none"></td>'


@dataclass(frozen=True)
class ShownFile:
    """A file of a diff. ``state`` is "" for a file that was only edited.

    ``notes`` say what its lines do not show. ``rows`` are the rows of its table.
    """

    number: int
    path: Markup
    state: str
    notes: tuple[Markup, ...]
    insertions: int
    deletions: int
    is_folded: bool
    rows: Markup
    left_out: int
    """Number of its lines that the page does not show."""


@dataclass(frozen=True)
class ShownDiff:
    """A diff. ``is_cut`` if the end of its patch is missing.

    ``paths`` are the shown files as `git.printable` names them, with the old paths of renamed ones.
    ``left_out_lines`` and ``left_out_files`` are those of the patch that the page does not show.
    """

    files: tuple[ShownFile, ...]
    paths: frozenset[str]
    is_split: bool
    is_cut: bool
    left_out_files: int
    left_out_lines: int

    @property
    def insertions(self) -> int:
        return sum(each.insertions for each in self.files)

    @property
    def deletions(self) -> int:
        return sum(each.deletions for each in self.files)


def show(patch: str, *, is_split: bool = False) -> ShownDiff:
    """Return the diff of a patch; side by side if ``is_split``. Uses up to 0.3 s of CPU time."""
    parsed = patches.parse(patch)
    files = parsed.files[:MAX_FILES]
    shares = _shares(files)
    highlighter = Highlighter()
    shown = []
    for number, file in enumerate(files):
        hunks = list(_first_lines(file, shares[number]))
        shown.append(_file(number + 1, file, hunks, highlighter, is_split))
    return ShownDiff(
        files=tuple(shown),
        paths=frozenset(
            git.printable(path) for each in files for path in (each.path, each.old_path)
        ),
        is_split=is_split,
        is_cut=parsed.is_cut,
        left_out_files=len(parsed.files) - len(files),
        left_out_lines=sum(each.left_out for each in shown),
    )


def _shares(files: Sequence[FilePatch]) -> list[int]:
    """Return the number of lines that a page shows of each file."""
    shares = [0] * len(files)
    lines, characters = MAX_LINES, MAX_CHARACTERS
    order = sorted(
        range(len(files)),
        key=lambda number: (patches.is_generated(files[number].path), files[number].lines),
    )
    for number in order:
        for each in files[number].hunks:
            for line in each.lines:
                characters -= min(len(line.text), MAX_LINE_CHARACTERS)
                if lines <= 0 or characters < 0:
                    return shares
                lines -= 1
                shares[number] += 1
    return shares


def _first_lines(file: FilePatch, most: int) -> Iterator[Hunk]:
    """Yield the hunks with the first ``most`` lines of a file."""
    for each in file.hunks:
        if most <= 0:
            return
        yield Hunk(each.header, each.lines[:most], each.missing)
        most -= len(each.lines)


def _file(
    number: int,
    file: FilePatch,
    hunks: Sequence[Hunk],
    highlighter: Highlighter,
    is_split: bool,
) -> ShownFile:
    is_generated = patches.is_generated(file.path)
    has_crlf = file.has_crlf
    lexer = lexer_of(file.path)
    if lexer and not highlighter.has_room(sum(map(_read_characters, hunks))):
        lexer = ""
    rows = list[str]()
    for each in hunks:
        contents = _contents(each.lines, lexer, highlighter, has_crlf)
        rows += _rows(each, contents, is_split)
    return ShownFile(
        number=number,
        path=_path(file.path),
        state=_STATES.get(file.status, ""),
        notes=tuple(_notes(file, is_generated, has_crlf)),
        insertions=file.insertions,
        deletions=file.deletions,
        is_folded=is_generated,
        rows=Markup("".join(rows)),
        left_out=file.lines - sum(len(each.lines) for each in hunks),
    )


def _notes(file: FilePatch, is_generated: bool, has_crlf: bool) -> Iterator[Markup]:
    if file.old_path != file.path:
        yield Markup("from <code>{}</code>").format(_path(file.old_path))
    if file.is_link:
        yield Markup("symbolic link")
    if file.old_mode and file.new_mode:
        yield escape(f"mode {file.old_mode} → {file.new_mode}")
    elif file.new_mode.endswith("755"):
        yield Markup("may be executed")
    if file.is_binary:
        yield Markup("binary")
    if is_generated:
        yield Markup("generated, by its name")
    if has_crlf:
        yield Markup("lines end with CR LF")


def _rows(hunk: Hunk, contents: dict[PatchLine, str], is_split: bool) -> Iterator[str]:
    """Yield the rows of a hunk, as HTML."""
    columns = 6 if is_split else 4
    yield (
        f'<tr class="hunk"><th colspan="{columns}" scope="rowgroup">'
        f"{_text(hunk.header[:MAX_LINE_CHARACTERS])}</th></tr>"
    )
    if not is_split:
        for line in hunk.lines:
            yield (
                f'<tr class="{_CLASSES[line.sign]}"><td class="n">{line.old or ""}</td>'
                f'<td class="n">{line.new or ""}</td><td class="g">{_SIGNS[line.sign]}</td>'
                f'<td class="c">{contents[line]}</td></tr>'
            )
        return
    for old, new in patches.side_by_side(hunk.lines):
        row = ['<tr class="same">' if old is new else "<tr>"]
        for each, number in ((old, old and old.old), (new, new and new.new)):
            if each is None:
                row.append(_EMPTY)
                continue
            name = _CLASSES[each.sign]
            row.append(
                f'<td class="n {name}">{number}</td><td class="g {name}">{_SIGNS[each.sign]}</td>'
                f'<td class="c {name}">{contents[each]}</td>'
            )
        yield "".join([*row, "</tr>"])


def _sides(lines: Sequence[PatchLine]) -> tuple[list[PatchLine], list[PatchLine]]:
    """Return the lines before and after the change whose syntax is read.

    Those before the change end with the last removed one, because the others are also after it.
    """
    last = max((number for number, each in enumerate(lines) if each.sign == "-"), default=-1)
    before = [each for each in lines[: last + 1] if each.sign != "+"]
    return before, [each for each in lines if each.sign != "-"]


def _read_characters(hunk: Hunk) -> int:
    return sum(len(each.text) for side in _sides(hunk.lines) for each in side)


def _contents(
    lines: Sequence[PatchLine], lexer: str, highlighter: Highlighter, has_crlf: bool
) -> dict[PatchLine, str]:
    """Return the text of each line of a hunk as HTML."""
    texts = {each: _shown_part(each.text, has_crlf) for each in lines}
    tokens: dict[PatchLine, list[Token]] = {}
    for side in _sides(lines):
        found = highlighter.tokens(lexer, [texts[each] for each in side])
        tokens |= zip(side, found, strict=True)
    marks: dict[PatchLine, Parts] = {}
    for old, new in patches.side_by_side(lines):
        if old is not None and new is not None and old is not new:
            marks[old], marks[new] = patches.changed_parts(texts[old], texts[new])
    contents = {}
    for each, text in texts.items():
        html = _line(tokens[each], marks.get(each, []))
        if more := len(each.text) - len(text) - (has_crlf and each.text.endswith("\r")):
            html += f'<span class="note">… {more:,} more characters</span>'
        if not each.has_newline:
            html += '<span class="note">no line break at the end of the file</span>'
        contents[each] = html
    return contents


def _shown_part(text: str, has_crlf: bool) -> str:
    """Return the part of a line that the page shows."""
    if has_crlf:
        text = text.removesuffix("\r")
    text = text[:MAX_LINE_CHARACTERS]
    if text.isascii() and text.isprintable():
        return text
    for number, found in enumerate(HIDDEN.finditer(text)):
        if number == MAX_HIDDEN_CHARACTERS:
            return text[: found.start()]
    return text


def _line(tokens: Sequence[Token], marks: Parts) -> str:
    """Return a line as HTML, with the syntax of ``tokens``; ``marks`` are its changed parts."""
    if not marks:
        return "".join([_span(name, text) for name, text in tokens])
    borders = sorted({border for part in marks for border in part})
    html, at = list[str](), 0
    for name, text in tokens:
        end = at + len(text)
        cuts = [at, *(each for each in borders if at < each < end), end]
        for start, stop in pairwise(cuts):
            is_marked = any(first <= start < last for first, last in marks)
            classes = f"{name} w".strip() if is_marked else name
            html.append(_span(classes, text[start - at : stop - at]))
        at = end
    return "".join(html)


def _span(classes: str, text: str) -> str:
    return f'<span class="{classes}">{_text(text)}</span>' if classes else _text(text)


def _text(text: str) -> str:
    """Return a hostile text as HTML, with its hidden characters by name."""
    if text.isascii() and text.isprintable():
        return escape(text)
    html, at = list[str](), 0
    for found in HIDDEN.finditer(text):
        html += (escape(text[at : found.start()]), _hidden(found[0]))
        at = found.end()
    return "".join([*html, escape(text[at:])])


def _path(path: str) -> Markup:
    """Return the path of a file as HTML, also with its tabs by name."""
    return Markup(_hidden("\t").join(map(_text, path.split("\t"))))


def _hidden(character: str) -> str:
    return f'<span class="u">{name_of(character)}</span>'
