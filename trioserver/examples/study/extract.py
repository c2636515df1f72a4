"""Extract the text of a file in a process of its own: ``python extract.py pdf < file > text``.

Files come from strangers. A small one may unpack to gigabytes, or send a parser around in circles;
so it is parsed where it can be killed, with little memory, little time, no files and no secrets.
`documents` starts this and imports nothing of it.

The exit code says how it went: 0 with the text on stdout, or one of `EXIT_CODES`.
"""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Final
from xml.parsers import expat

MAX_CHARACTERS: Final = 2_000_000
"""Maximum characters of text. A thick book has one million."""

MAX_PAGES: Final = 3_000

MAX_XML_BYTES: Final = 64 * 1024 * 1024
"""Maximum bytes of an unpacked part of a DOCX. Markup takes ten times the size of its text."""

MEMORY_BYTES: Final = 1024 * 1024 * 1024
"""Maximum bytes of address space, including Python and its libraries."""

CPU_SECONDS: Final = 20

EXIT_CODES: Final = {
    "broken": 10,
    "encrypted": 11,
    "no_text": 12,
    "too_large": 13,
    "no_library": 14,
}

_CONTENT_TYPE: Final = (
    "application/vnd.openxmlformats-officedocument.wordprocessingml.document.main+xml"
)
_WORD: Final = frozenset({
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
})  # fmt: skip


class Unreadable(Exception):
    """The text cannot be extracted; ``reason`` is one of `EXIT_CODES`."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def of_text(data: bytes) -> Iterator[str]:
    """Decode UTF-8, or UTF-16 with a byte order mark."""
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise Unreadable("broken") from None
    if "\0" in text:
        raise Unreadable("broken")
    yield text


def of_pdf(data: bytes) -> Iterator[str]:
    """Extract the text of a PDF page by page."""
    try:
        import pypdf
    except ModuleNotFoundError as error:
        if error.name != "pypdf":
            raise
        raise Unreadable("no_library") from None
    reader = pypdf.PdfReader(io.BytesIO(data))
    if reader.is_encrypted and not reader.decrypt(""):
        raise Unreadable("encrypted")
    for number, page in enumerate(reader.pages):
        if number >= MAX_PAGES:
            raise Unreadable("too_large")
        yield page.extract_text() + "\n\n"


def of_docx(data: bytes) -> Iterator[str]:
    """Extract the text of a DOCX paragraph by paragraph."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        name = _main_part(_unpack(archive, "[Content_Types].xml"))
        document = _unpack(archive, name)
    pieces: list[str] = []
    in_text = False

    def start(tag: str, _: object) -> None:
        nonlocal in_text
        match _word_tag(tag):
            case "t":
                in_text = True
            case "tab":
                pieces.append("\t")
            case "br" | "cr":
                pieces.append("\n")

    def end(tag: str) -> None:
        nonlocal in_text
        match _word_tag(tag):
            case "t":
                in_text = False
            case "p":
                pieces.append("\n\n")

    def characters(text: str) -> None:
        if in_text:
            pieces.append(text)

    _parse(document, start, end, characters)
    yield "".join(pieces)


def _unpack(archive: zipfile.ZipFile, name: str) -> bytes:
    """Unpack a part, but not more than the limit, whatever size the archive claims."""
    with archive.open(name) as part:
        data = part.read(MAX_XML_BYTES + 1)
    if len(data) > MAX_XML_BYTES:
        raise Unreadable("too_large")
    return data


def _main_part(content_types: bytes) -> str:
    """Return the name of the document in the archive, which is not always the same."""
    found = []

    def start(tag: str, attributes: dict[str, str]) -> None:
        if tag.endswith(" Override") and attributes.get("ContentType") == _CONTENT_TYPE:
            found.append(attributes.get("PartName", "").removeprefix("/"))

    _parse(content_types, start)
    if not found:
        raise Unreadable("broken")
    return found[0]


def _word_tag(tag: str) -> str:
    namespace, _, name = tag.rpartition(" ")
    return name if namespace in _WORD else ""


def _parse(
    data: bytes,
    start: Callable[[str, dict[str, str]], None],
    end: Callable[[str], None] | None = None,
    characters: Callable[[str], None] | None = None,
) -> None:
    """Parse XML without a document type: no entities, and nothing is fetched."""

    def refuse(*_: object) -> None:
        raise Unreadable("broken")

    parser = expat.ParserCreate(namespace_separator=" ")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    parser.Parse(data, True)


_READERS: Final[dict[str, Callable[[bytes], Iterator[str]]]] = {
    "text": of_text,
    "pdf": of_pdf,
    "docx": of_docx,
}


def extract(kind: str, data: bytes) -> str:
    """Return the text of a file. Raises `Unreadable`, whatever is wrong with it."""
    pieces, size = [], 0
    try:
        for piece in _READERS[kind](data):
            size += len(piece)
            if size > MAX_CHARACTERS:
                raise Unreadable("too_large")
            pieces.append(piece)
    except Unreadable:
        raise
    except (MemoryError, RecursionError):
        raise Unreadable("too_large") from None
    except Exception as error:  # parsers raise all kinds of things for files that are none
        # pypdf's own bounds; it is imported only where it is needed.
        bounded = type(error).__name__ == "LimitReachedError"
        raise Unreadable("too_large" if bounded else "broken") from None
    # Fonts that name no characters give halves of surrogate pairs, and PDF files give NUL.
    text = "".join(pieces).encode("utf-8", "ignore").decode().replace("\0", " ")
    if not text.strip():
        raise Unreadable("no_text")
    return text


def _limit_this_process() -> None:
    """Limit memory if the platform can. The deadline of the parent holds on every platform."""
    try:
        import resource
    except ImportError:
        return
    for limit, value in (
        (resource.RLIMIT_AS, MEMORY_BYTES),
        (resource.RLIMIT_CPU, CPU_SECONDS),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.setrlimit(limit, (value, value))
        except (ValueError, OSError):
            continue  # a lower limit is in force, or this system does not have it


def main() -> int:
    """Extract the text, and return the exit code."""
    _limit_this_process()
    try:
        text = extract(sys.argv[1], sys.stdin.buffer.read())
    except Unreadable as error:
        return EXIT_CODES[error.reason]
    sys.stdout.buffer.write(text.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
