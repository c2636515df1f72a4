"""Split a text into passages: short enough to quote, long enough to understand."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

AIM: Final = 500
"""Characters up to which short paragraphs are joined."""

MAX_PASSAGE: Final = 1_000
"""Characters of the longest paragraph. Longer ones are split, if possible after a sentence."""

_BLANK_LINES: Final = re.compile(r"\n[^\S\n]*\n\s*")
_HEADING: Final = re.compile(r"#{1,6}\s")
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”\u2019)\]]*\s+")
_SPACES: Final = re.compile(r"\s+")


def cut(text: str) -> list[str]:
    """Return the passages in order. A Markdown heading starts a passage."""
    passages: list[str] = []
    current = ""
    for piece in _pieces(text.replace("\r\n", "\n")):
        is_heading = _HEADING.match(piece) is not None
        joined = f"{current}\n{piece}" if current else piece
        ends_here = len(current) >= AIM or is_heading or len(joined) > MAX_PASSAGE
        if current and ends_here:
            passages.append(current)
            current = piece
        else:
            current = joined
    if current:
        passages.append(current)
    return passages


def sentences(passage: str) -> list[str]:
    """Return the sentences of a passage without headings."""
    lines = [line for line in passage.split("\n") if not _HEADING.match(line)]
    return [sentence for line in lines for sentence in _sentences(line)]


def _pieces(text: str) -> Iterator[str]:
    """Return each paragraph on one line, and split those that are too long."""
    for paragraph in _BLANK_LINES.split(text):
        for block in _headings_apart(paragraph):
            line = _SPACES.sub(" ", block).strip()
            start = 0
            while start < len(line):
                end = _good_end(line, start)
                yield line[start:end].strip()
                start = end


def _headings_apart(paragraph: str) -> Iterator[str]:
    """Separate headings from the text after them, because Markdown needs no empty line there."""
    rest: list[str] = []
    for line in paragraph.split("\n"):
        if _HEADING.match(line):
            yield " ".join(rest)
            yield line
            rest = []
        else:
            rest.append(line)
    yield " ".join(rest)


def _good_end(line: str, start: int) -> int:
    """Return where to split: after the last sentence or word that fits, else anywhere."""
    end = start + MAX_PASSAGE
    if len(line) <= end:
        return len(line)
    ends = [match.end() for match in _SENTENCE_END.finditer(line, start, end)]
    if ends:
        return ends[-1]
    space = line.rfind(" ", start + 1, end)
    return end if space < 0 else space + 1


def _sentences(line: str) -> Iterator[str]:
    start = 0
    for match in _SENTENCE_END.finditer(line):
        yield line[start : match.end()].strip()
        start = match.end()
    if line[start:].strip():
        yield line[start:].strip()
