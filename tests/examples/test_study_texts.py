"""Files into text, text into passages, passages found: the study coach's parts by themselves."""

from __future__ import annotations

import io
import sqlite3
import subprocess
import sys
import zlib
from contextlib import closing
from pathlib import Path

import pypdf
import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st

from protocol import Refusal
from tests.support.patience import PATIENCE
from tests.support.study_files import CONTENT_TYPES, archive, docx, docx_bomb, pdf
from trioserver.examples.study import extract, library, passages
from trioserver.examples.study.documents import Reader, _environment, plain_name
from trioserver.examples.study.library import Library, Passage
from trioserver.examples.study.responders import NOTHING_FOUND, compose
from trioserver.examples.upgrade import upgrade
from trioserver.storage import Database

# ------------------------------------------------------------------------- files into text


@pytest.mark.parametrize(
    ("kind", "data", "text"),
    [
        ("text", "Grüße, мир".encode(), "Grüße, мир"),
        ("text", "\ufeffmarked".encode(), "marked"),
        ("text", "wide Ü".encode("utf-16"), "wide Ü"),
        ("pdf", pdf("First page", "Second page"), "First page\n\nSecond page\n\n"),
        ("docx", docx("One", "Two &amp; more"), "One\n\nTwo & more\n\n"),
        ("docx", docx("Elsewhere", part="word/document2.xml"), "Elsewhere\n\n"),
    ],
)
def test_the_text_of_each_kind_of_file(kind: str, data: bytes, text: str) -> None:
    assert extract.extract(kind, data) == text


LAUGHS = (
    '<!DOCTYPE d [<!ENTITY a "ha"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">]>'
    '<w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main">'
    "<w:p><w:r><w:t>&b;</w:t></w:r></w:p></w:document>"
)
TYPES = CONTENT_TYPES.format(part="word/document.xml")


@pytest.mark.parametrize(
    ("kind", "data", "reason"),
    [
        ("text", b"\xff\xfe\x00\xd8", "broken"),
        ("text", b"caf\xe9", "broken"),
        ("text", b"a\0b", "broken"),
        ("text", b" \n\t ", "no_text"),
        ("text", b"", "no_text"),
        ("text", b"x" * (extract.MAX_CHARACTERS + 1), "too_large"),
        ("pdf", b"%PDF-1.7 and nothing else", "broken"),
        ("pdf", docx("not a PDF"), "broken"),
        ("pdf", pdf(), "no_text"),
        ("pdf", pdf("cut in half")[:300], "broken"),
        ("pdf", pdf("x", stream=zlib.compress(b" " * 200_000_000)), "too_large"),
        ("docx", pdf("not a DOCX"), "broken"),
        ("docx", docx("cut")[:-30], "broken"),
        ("docx", archive({"word/document.xml": "<a/>"}), "broken"),
        ("docx", archive({"[Content_Types].xml": "<Types/>"}), "broken"),
        ("docx", archive({"[Content_Types].xml": TYPES}), "broken"),
        ("docx", archive({"[Content_Types].xml": TYPES, "word/document.xml": "<a>"}), "broken"),
        ("docx", archive({"[Content_Types].xml": TYPES, "word/document.xml": LAUGHS}), "broken"),
        ("docx", docx(), "no_text"),
        ("docx", docx_bomb(extract.MAX_XML_BYTES + 1), "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_files_without_a_text_are_told_apart(kind: str, data: bytes, reason: str) -> None:
    with pytest.raises(extract.Unreadable) as raised:
        extract.extract(kind, data)
    assert raised.value.reason == reason


@given(st.sampled_from(["text", "pdf", "docx"]), st.binary(max_size=200))
def test_any_bytes_are_a_text_or_unreadable(kind: str, data: bytes) -> None:
    try:
        text = extract.extract(kind, data)
    except extract.Unreadable as error:
        text = error.reason
    assert text.strip()


def test_a_protected_pdf_says_so() -> None:
    writer = pypdf.PdfWriter()
    writer.add_blank_page(100, 100)
    writer.encrypt("a password", algorithm="RC4-128")
    file = io.BytesIO()
    writer.write(file)
    with pytest.raises(extract.Unreadable) as raised:
        extract.extract("pdf", file.getvalue())
    assert raised.value.reason == "encrypted"


# ------------------------------------------------------------------------- in a process of its own


async def test_a_file_is_read_in_another_process() -> None:
    assert await Reader().read("a.pdf", pdf("From afar")) == "From afar\n\n"
    with pytest.raises(Refusal) as raised:
        await Reader().read("a.docx", b"nothing")
    assert (raised.value.code, "damaged" in raised.value.message) == ("unreadable", True)


async def test_the_deadline_ends_it() -> None:
    with pytest.raises(Refusal) as raised:
        await Reader(deadline=0.01).read("slow.pdf", pdf("x"))
    assert raised.value.code == "unreadable"


def test_the_process_is_limited_and_gets_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it is allowed, seen from inside: as much as it needs, and no file that is written."""
    monkeypatch.setenv("TRIOSERVER_SECRET", "x")
    monkeypatch.setenv("TRIOSERVER_COACH_KEY", "x")
    assert not any(name.startswith("TRIOSERVER") for name in _environment())
    program = (
        f"import runpy; module = runpy.run_path({extract.__file__!r}, run_name='m');"
        "module['_limit_this_process']();"
        "import resource; print(resource.getrlimit(resource.RLIMIT_AS)[0],"
        "resource.getrlimit(resource.RLIMIT_CPU)[0], resource.getrlimit(resource.RLIMIT_FSIZE)[0])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert done.stdout.split() == [str(extract.MEMORY_BYTES), str(extract.CPU_SECONDS), "0"]


@pytest.mark.parametrize(
    ("sent", "kept"),
    [("a.md", "a.md"), ("../../etc/passwd.txt", "passwd.txt"), ("C:\\notes\\b.pdf", "b.pdf")],
)
def test_a_name_is_kept_without_its_folder(sent: str, kept: str) -> None:
    assert plain_name(sent) == kept


@pytest.mark.parametrize("sent", ["", "/", "a\nb.txt", "x" * 201, "a\u202e.txt"])
def test_a_name_that_is_none_is_refused(sent: str) -> None:
    with pytest.raises(Refusal):
        plain_name(sent)


# ------------------------------------------------------------------------- text into passages


def test_paragraphs_are_joined_and_headings_begin_a_passage() -> None:
    text = "# One\nfirst\n\nsecond\n\n## Two\r\n\r\nthird"
    assert passages.cut(text) == ["# One\nfirst\nsecond", "## Two\nthird"]


def test_long_paragraphs_are_cut_where_sentences_end() -> None:
    text = "This is a sentence of some length. " * 100
    cut = passages.cut(text)
    assert len(cut) > 1
    assert all(passage.endswith("length.") for passage in cut)


@given(st.text(max_size=5_000))
def test_passages_are_short_and_have_all_the_words(text: str) -> None:
    cut = passages.cut(text)
    assert all(0 < len(passage) <= passages.MAX_PASSAGE for passage in cut)
    assert "".join("".join(cut).split()) == "".join(text.split())


def test_cutting_takes_time_in_proportion() -> None:
    """A line of two million characters without a single space."""
    assert len(passages.cut("x" * 2_000_000)) == 2_000


# ------------------------------------------------------------------------- passages found


async def open_library(database: Database, tmp_path: Path) -> Library:
    await upgrade(str(tmp_path / "a.db"), "study_coach", library.STEPS)
    return Library(database)


async def test_each_user_finds_only_their_own(tmp_path: Path) -> None:
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        await open_library(database, tmp_path)  # a second time changes nothing
        mine = await shelf.add("alice", "a.md", ["Leaves are green.", "Stars shine."])
        await shelf.add("bob", "b.md", ["Leaves fall in autumn."])
        assert [p.text for p in await shelf.find("alice", "a green leaf?", 5)] == [
            "Leaves are green."
        ]
        assert [p.text for p in await shelf.find("bob", "leaves", 5)] == ["Leaves fall in autumn."]
        assert await shelf.find("carol", "leaves", 5) == []
        assert not await shelf.delete("bob", mine)
        assert await shelf.delete("alice", mine)
        assert await shelf.find("alice", "leaves stars", 5) == []
        assert await shelf.texts("alice") == []


async def test_what_others_have_changes_neither_the_work_nor_the_order(tmp_path: Path) -> None:
    """The steps of SQLite's machine stand for the time, and are the same on every computer.

    They hang a little on how much there is in all, but not on what.
    """
    mine = ["energy and power", "power and power", "the energy of it", "the power of it", "it"]
    seen = []
    for word in ("energy", "thunder", None):
        others = [] if word is None else [f"{word} here, {word} there"] * 3_000
        path = tmp_path / str(word)
        path.mkdir()
        async with Database(path / "a.db") as database:
            shelf = await open_library(database, path)
            await shelf.add("bob", "b.md", mine)
            for number in range(3):
                if others:
                    await shelf.add(f"alice-{number}", "a.md", others)

            def search(connection: sa.Connection) -> tuple[list[str], int]:
                steps = 0

                def count() -> int:
                    nonlocal steps
                    steps += 1
                    return 0

                driver = connection.connection.driver_connection
                assert isinstance(driver, sqlite3.Connection)
                driver.set_progress_handler(count, 1)
                try:
                    found = library._find(connection, "bob", ["energy", "power", "zebra"], 5)
                finally:
                    driver.set_progress_handler(None, 1)
                return [row.text for row in found], steps

            await database.read(search)  # statements are compiled
            seen.append(await database.read(search))
    with_it, without_it, alone = seen
    assert with_it == without_it
    assert with_it[0] == alone[0]
    assert with_it[1] < 5 * alone[1]
    assert alone[0][0] == "energy and power"


async def test_no_word_in_the_index_is_two_users_own(tmp_path: Path) -> None:
    text = "Leaves_of ABC's 7up, 17 x1 naïve cafe\u0301 ÜBER straße 日本語 Ελλάδα don't -- a_b"
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        for number in range(45):
            await shelf.add(f"user-{number}", "a.md", [text])
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, study_words, row)")
        words = connection.execute("SELECT term, doc FROM temp.v").fetchall()
    assert len(words) == 45 * len({"leav", "of", "abc", "s", "7up", "17", "x1", "naiv", "cafe"}) + (
        45 * len({"uber", "strass", "日本語", "ελλαδα", "don", "t", "a", "b"})
    )
    assert {documents for _, documents in words} == {1}


async def test_words_are_found_in_their_other_forms(tmp_path: Path) -> None:
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        await shelf.add("bob", "b.md", ["nothing"])
        await shelf.add("alice", "a.md", ["Stars shine by fusion.", "Ein Café in Österreich."])
        for question, expected in {
            "What is shining?": ["Stars shine by fusion."],
            "STAR": ["Stars shine by fusion."],
            "cafe\u0301 osterreich": ["Ein Café in Österreich."],
            "shines": ["Stars shine by fusion."],
            "bed": [],
        }.items():
            assert [p.text for p in await shelf.find("alice", question, 5)] == expected


async def test_an_index_keeps_nothing_of_a_text_that_was_deleted(tmp_path: Path) -> None:
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        for _ in range(2):
            texts = [await shelf.add("alice", "a.md", ["Leaves are green."]) for _ in range(2)]
            for number, text in enumerate(texts):
                assert len(await shelf.find("alice", "leaves", 5)) == 2 - number
                assert await shelf.delete("alice", text)
            assert await shelf.find("alice", "leaves", 5) == []
    with closing(sqlite3.connect(tmp_path / "a.db")) as connection:
        connection.execute("CREATE VIRTUAL TABLE temp.v USING fts5vocab(main, study_words, row)")
        assert connection.execute("SELECT * FROM temp.v").fetchall() == []


async def test_texts_of_the_previous_version_are_found(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    async with Database(path) as database:
        shelf = await open_library(database, tmp_path)
        text = await shelf.add("alice", "a.md", ["Leaves are green.", "Stars shine."])
        await shelf.add("bob", "b.md", ["Leaves fall in autumn."])
    with closing(sqlite3.connect(path)) as old:  # what that version had
        old.executescript(
            """DROP TABLE study_owners;
            DROP TABLE study_words;
            DELETE FROM trioserver_schema WHERE component = 'study_coach';
            CREATE VIRTUAL TABLE study_index USING fts5(
                text, content='study_passages', content_rowid='id',
                tokenize='porter unicode61 remove_diacritics 2');
            CREATE TRIGGER study_added AFTER INSERT ON study_passages BEGIN
                INSERT INTO study_index(rowid, text) VALUES (new.id, new.text); END;
            CREATE TRIGGER study_removed AFTER DELETE ON study_passages BEGIN
                INSERT INTO study_index(study_index, rowid, text)
                VALUES ('delete', old.id, old.text); END;
            INSERT INTO study_index(study_index) VALUES ('rebuild');"""
        )
    async with Database(path) as database:
        shelf = await open_library(database, tmp_path)
        assert [p.text for p in await shelf.find("alice", "leaves", 5)] == ["Leaves are green."]
        assert [p.text for p in await shelf.find("bob", "leaves", 5)] == ["Leaves fall in autumn."]
        assert await shelf.delete("alice", text)
        assert await shelf.find("alice", "leaves", 5) == []
        await shelf.add("alice", "a.md", ["The leaves."])
        assert [p.text for p in await shelf.find("alice", "leaves", 5)] == ["The leaves."]
    with closing(sqlite3.connect(path)) as new:
        names = {name for (name,) in new.execute("SELECT name FROM sqlite_schema")}
    assert not names & {"study_index", "study_added", "study_removed"}


@pytest.mark.parametrize(
    "question",
    [
        '"',
        "'; DROP TABLE study_texts; --",
        "a OR",
        "NEAR(",
        "text:x",
        "*",
        "-",
        "(",
        "\0",
        "?!",
        "",
    ],
)
async def test_a_question_is_no_query_language(question: str, tmp_path: Path) -> None:
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        await shelf.add("alice", "a.md", ["Drop the table on a text near x."])
        await shelf.find("alice", question, 5)
        assert len(await shelf.texts("alice")) == 1


async def test_texts_and_passages_have_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "MAX_TEXTS", 2)
    async with Database(tmp_path / "a.db") as database:
        shelf = await open_library(database, tmp_path)
        with pytest.raises(Refusal):
            await shelf.add("alice", "a.md", ["x"] * (library.MAX_PASSAGES + 1))
        for _ in range(2):
            await shelf.add("alice", "a.md", ["x"])
        with pytest.raises(Refusal) as raised:
            await shelf.add("alice", "a.md", ["x"])
        assert raised.value.code == "too_many_texts"
        await shelf.add("bob", "b.md", ["x"])


def test_the_composed_answer_quotes_sentences_with_their_place() -> None:
    found = [Passage("1", "a.md", 3, "Stars shine. Leaves are green because of chlorophyll.")]
    assert compose("Why are leaves green?", found) == (
        "Your texts say: Leaves are green because of chlorophyll. (a.md, 3)"
    )
    assert compose("Why?", []) == NOTHING_FOUND
    heading = [Passage("1", "a.md", 1, "# Chlorophyll")]
    assert "# Chlorophyll" in compose("chlorophyll", heading)
