"""Cuts a text into passages: short enough to be quoted, long enough to be understood."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

AIM: Final = 500
"""Characters. Short paragraphs are joined up to it."""

MAX_PASSAGE: Final = 1_000
"""Characters. Longer paragraphs are cut, at the end of a sentence if there is one."""

_BLANK_LINES: Final = re.compile(r"\n[^\S\n]*\n\s*")
_HEADING: Final = re.compile(r"#{1,6}\s")
_SENTENCE_END: Final = re.compile(r"[.!?…][\"'”\u2019)\]]*\s+")
_SPACES: Final = re.compile(r"\s+")


def cut(text: str) -> list[str]:
    """The passages, in order. A heading of Markdown begins a passage."""
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
    """The sentences of a passage, headings left out."""
    lines = [line for line in passage.split("\n") if not _HEADING.match(line)]
    return [sentence for line in lines for sentence in _sentences(line)]


def _pieces(text: str) -> Iterator[str]:
    """Paragraphs on one line each, and parts of those that are too long."""
    for paragraph in _BLANK_LINES.split(text):
        for block in _headings_apart(paragraph):
            line = _SPACES.sub(" ", block).strip()
            start = 0
            while start < len(line):
                end = _good_end(line, start)
                yield line[start:end].strip()
                start = end


def _headings_apart(paragraph: str) -> Iterator[str]:
    """Markdown needs no empty line after a heading."""
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
    """Where to cut: after the last sentence that fits, else the last word, else anywhere."""
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
