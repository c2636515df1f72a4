"""System 5, the study coach, as its clients see it: real HTTP, and a WebSocket client of another
library."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.exceptions import InvalidStatus

from tests.support.study_files import docx, docx_bomb, pdf
from tests.support.systems import COMMAND, Demo, Talk, demo, refused_start
from trioserver.examples.study.uploads import MAX_BYTES

PATH = "/api/chat/ws"
TEXTS = "/api/chat/texts"

PLANTS = (
    "# Plants\nLeaves are green because of chlorophyll. Roots drink water.\n\n"
    "# Stars\nStars shine by nuclear fusion."
)
SECRET = "the-secret-of-these-tests-" + "0123456789abcdef" * 2


@pytest.fixture(scope="module")
def running() -> Iterator[Demo]:
    with demo("--log-level", "debug") as running:
        yield running


@pytest.fixture(scope="module")
def beating() -> Iterator[Demo]:
    short = {"TRIOSERVER_HEARTBEAT_INTERVAL": "0.4", "TRIOSERVER_HEARTBEAT_TIMEOUT": "0.3"}
    with demo(**short) as running:
        yield running


@pytest.fixture
def api(running: Demo) -> Iterator[httpx.Client]:
    """As alice, whose shelf is empty again at the end."""
    with client(running, "alice") as api:
        yield api
        for text in api.get(TEXTS).json()["texts"]:
            assert api.delete(f"{TEXTS}/{text['text_id']}").status_code == 204


def client(running: Demo, user: str) -> httpx.Client:
    headers = {"Authorization": f"Bearer {running.token(user)}"}
    return httpx.Client(base_url=running.http, headers=headers, timeout=30, trust_env=False)


def upload(api: httpx.Client, name: str, data: bytes | str) -> httpx.Response:
    content = data.encode() if isinstance(data, str) else data
    return api.post(TEXTS, files={"file": (name, content)})


def ask(talk: Talk, text: str, id: int | str = "s") -> tuple[list[dict[str, Any]], str]:
    """The passages and the text of an answer."""
    *chunks, end = talk.stream("ask", id, text=text)
    assert end == {"type": "end", "id": id}
    kinds = [chunk["data"]["kind"] for chunk in chunks]
    assert kinds == sorted(kinds), "passages first, then text"
    passages = [chunk["data"] for chunk in chunks if chunk["data"]["kind"] == "passage"]
    text = "".join(chunk["data"]["text"] for chunk in chunks if chunk["data"]["kind"] == "text")
    return passages, text


# ------------------------------------------------------------------------- who may connect


@pytest.mark.parametrize("origin", ["own", "http://localhost:5173", None])
def test_origins_of_the_list_and_clients_without_one_are_let_in(
    running: Demo, origin: str | None
) -> None:
    shown = running.http if origin == "own" else origin
    with running.open(PATH, origin=shown) as talk:
        talk.send(type="auth", token=running.token("alice"))
        assert talk.receive()["type"] == "ready"


def test_another_origin_gets_403_before_the_handshake_and_a_line_with_the_likely_mistake(
    running: Demo,
) -> None:
    origin = "http://127.0.0.1:5173"
    with pytest.raises(InvalidStatus) as raised, running.open(PATH, origin=origin):
        pass
    assert raised.value.response.status_code == 403
    log = running.log_until(f'"origin": "{origin}"')
    lines = [json.loads(line) for line in log.splitlines()]
    (line,) = [line for line in lines if line["event"] == "websocket_rejected_invalid_origin"]
    assert line["origin"] == origin
    assert line["allowed"] == ["same-host", "http://localhost:5173"]
    assert "different origins" in line["hint"]


def test_the_list_is_configured() -> None:
    with demo(TRIOSERVER_COACH_ORIGINS="https://a.example, https://*.b.example") as running:
        for origin in ("https://a.example", "https://x.b.example"):
            with running.open(PATH, origin=origin):
                pass
        for origin in ("http://localhost:5173", running.http):
            with pytest.raises(InvalidStatus), running.open(PATH, origin=origin):
                pass


@pytest.mark.parametrize(
    ("environment", "words"),
    [
        ({"ORIGINS": "https://a.example/"}, "slash"),
        ({"URL": "http://model.example/v1", "KEY": "sk-a-key-of-this-test"}, "https://"),
    ],
)
def test_what_is_configured_wrongly_stops_the_start_and_tells_no_key(
    environment: dict[str, str], words: str
) -> None:
    given = {f"TRIOSERVER_COACH_{name}": value for name, value in environment.items()}
    line = refused_start(COMMAND, **given)
    assert words in line
    assert "sk-a-key" not in line


def test_a_greeting_comes_before_authentication_and_ready_after(running: Demo) -> None:
    with running.open(PATH) as talk:
        assert talk.hello["message"] == "Welcome to the study coach."
        talk.send(type="auth", token=running.token("alice"))
        assert talk.receive()["type"] == "ready"


@pytest.mark.parametrize(
    ("first", "code"),
    [
        ({"type": "auth"}, "token_missing"),
        ({"type": "auth", "token": "a.b.c"}, "token_invalid"),
        ({"type": "auth", "token": "expired"}, "token_expired"),
        ({"type": "ask", "id": 1, "data": {"text": "Who is there?"}}, "auth_required"),
    ],
)
def test_nobody_asks_without_a_good_token(running: Demo, first: dict[str, Any], code: str) -> None:
    if first.get("token") == "expired":
        first = {**first, "token": running.token("alice_expired")}
    with running.open(PATH) as talk:
        talk.send(**first)
        assert talk.refused()[1:] == (1008, code)


def test_the_token_is_not_taken_from_the_query(running: Demo) -> None:
    with running.open(f"{PATH}?token={running.token('alice')}") as talk:
        talk.send(type="auth")
        assert talk.refused()[2] == "token_missing"


# ------------------------------------------------------------------------- the heartbeat


def test_clients_are_pinged_by_message_and_answer_with_pong(beating: Demo) -> None:
    with beating.ready(PATH, "alice") as talk:
        assert talk.ready["heartbeat"]["mode"] == "message"
        for _ in range(2):
            assert talk.receive() == {"type": "ping"}
            talk.send(type="pong")


def test_a_client_that_sees_frames_may_ask_for_them(beating: Demo) -> None:
    with beating.ready(PATH, "alice", heartbeat="frame") as talk:
        assert talk.ready["heartbeat"]["mode"] == "frame"
        with pytest.raises(TimeoutError):
            talk.connection.recv(timeout=1.0)


def test_every_thirty_seconds_by_default(running: Demo) -> None:
    with running.ready(PATH, "alice") as talk:
        assert talk.ready["heartbeat"] == {
            "mode": "message",
            "interval_ms": 30_000,
            "timeout_ms": 10_000,
        }


def test_a_client_that_does_not_answer_is_closed(beating: Demo) -> None:
    with beating.ready(PATH, "alice") as talk:
        talk.ignored = frozenset({"ping"})
        assert talk.refused()[1:] == (4000, "heartbeat_timeout")


# ------------------------------------------------------------------------- texts


@pytest.mark.parametrize(
    ("name", "data", "word"),
    [
        ("notes.txt", "Plain notes about walruses.", "walruses"),
        ("notes.md", "# Marked\ndown notes about otters", "otters"),
        ("NOTES.PDF", pdf("Printed notes about lemurs."), "lemurs"),
        ("notes.docx", docx("Typed notes about badgers."), "badgers"),
    ],
)
def test_each_kind_of_file_is_taken_and_found(
    running: Demo, api: httpx.Client, name: str, data: bytes | str, word: str
) -> None:
    answer = upload(api, name, data)
    assert answer.status_code == 201
    told = answer.json()
    assert (told["name"], told["passages"]) == (name, 1)
    (listed,) = api.get(TEXTS).json()["texts"]
    assert {key: listed[key] for key in told} == told
    with running.ready(PATH, "alice") as talk:
        (passage,), text = ask(talk, f"What about {word}?")
        assert passage["text_id"] == told["text_id"]
        assert (passage["name"], passage["number"]) == (name, 1)
        assert word in passage["text"]
        assert word in text


def test_a_file_may_come_as_it_is_with_its_name_in_the_query(api: httpx.Client) -> None:
    answer = api.post(TEXTS, params={"name": "räw & plain.md"}, content=PLANTS.encode())
    assert answer.status_code == 201
    assert answer.json()["name"] == "räw & plain.md"
    assert answer.json()["passages"] == 2


@pytest.mark.parametrize(
    ("name", "data", "status", "code"),
    [
        ("a.exe", b"MZ", 415, "unsupported_type"),
        ("noending", b"text", 415, "unsupported_type"),
        ("a.pdf", b"no PDF at all", 422, "unreadable"),
        ("a.docx", b"PK\x03\x04 cut", 422, "unreadable"),
        ("a.txt", b"\xff\xfe\xfd", 422, "unreadable"),
        ("a.txt", b"   ", 422, "unreadable"),
        ("bomb.docx", docx_bomb(80_000_000), 422, "unreadable"),
        ("", b"text", 400, "bad_request"),
        ("x" * 300 + ".txt", b"text", 400, "bad_name"),
        ("big.txt", b"x" * (MAX_BYTES + 1), 413, "too_large"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_bad_files_are_refused_with_a_sentence_and_nothing_is_kept(
    api: httpx.Client, name: str, data: bytes, status: int, code: str
) -> None:
    answer = upload(api, name, data)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert error["message"].endswith((".", "?"))
    assert api.get(TEXTS).json() == {"texts": []}


def test_forms_and_bodies_that_are_none_are_refused(api: httpx.Client) -> None:
    form = {"Content-Type": "multipart/form-data; boundary=x"}
    for answer in (
        api.post(TEXTS, content=b"--x\r\ncut", headers=form),
        api.post(TEXTS, content=b"x", headers={"Content-Type": "multipart/form-data"}),
        api.post(TEXTS, files={"other": ("a.txt", b"text")}),
        api.post(TEXTS, files=[("file", ("a.txt", b"a")), ("file", ("b.txt", b"b"))]),
        api.post(TEXTS, content=b"no name"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (400, "bad_request")


def test_a_body_is_counted_whatever_its_head_says(api: httpx.Client) -> None:
    pieces = (b"x" * 65536 for _ in range(MAX_BYTES // 65536 + 3))
    answer = api.post(TEXTS, params={"name": "a.txt"}, content=pieces)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


def test_a_user_sends_one_file_at_a_time(running: Demo, api: httpx.Client) -> None:
    arrived, go_on = threading.Event(), threading.Event()

    def slowly() -> Iterator[bytes]:
        yield b"The first half, "
        arrived.set()
        go_on.wait(10)
        yield b"and the second."

    answers = []

    def send() -> None:
        with client(running, "alice") as own:
            answers.append(own.post(TEXTS, params={"name": "a.txt"}, content=slowly()))

    thread = threading.Thread(target=send)
    thread.start()
    assert arrived.wait(10)
    while (second := upload(api, "b.txt", "text")).status_code == 201:
        pass  # the first has not been seen yet
    assert (second.status_code, second.headers["Retry-After"]) == (429, "1")
    with client(running, "bob") as bob:  # others are not held up
        answer = upload(bob, "b.txt", "text")
        assert answer.status_code == 201
        bob.delete(f"{TEXTS}/{answer.json()['text_id']}")
    go_on.set()
    thread.join(10)
    assert answers[0].status_code == 201


@pytest.mark.parametrize(
    ("header", "code"),
    [
        (None, "token_missing"),
        ("Basic YTpi", "token_missing"),
        ("Bearer", "token_missing"),
        ("Bearer a.b.c", "token_invalid"),
        ("Bearer expired", "token_expired"),
    ],
)
def test_texts_need_a_good_bearer_token(running: Demo, header: str | None, code: str) -> None:
    value = None if header is None else header.replace("expired", running.token("alice_expired"))
    headers = {} if value is None else {"Authorization": value}
    for method, path in (("GET", TEXTS), ("POST", TEXTS), ("DELETE", TEXTS + "/x")):
        answer = httpx.request(method, running.http + path, headers=headers, trust_env=False)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, code)
        assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_somebody_elses_text_is_not_there(running: Demo, api: httpx.Client) -> None:
    mine = upload(api, "notes.md", PLANTS).json()["text_id"]
    with client(running, "bob") as bob, running.ready(PATH, "bob") as talk:
        assert bob.get(TEXTS).json() == {"texts": []}
        answers = [bob.delete(f"{TEXTS}/{id}") for id in (mine, "0" * 32)]
        assert [answer.status_code for answer in answers] == [404, 404]
        assert answers[0].content == answers[1].content
        passages, text = ask(talk, "Why are leaves green?")
        assert passages == []
        assert "do not answer this" in text
    assert len(api.get(TEXTS).json()["texts"]) == 1


def test_pages_of_the_list_may_upload_from_another_origin(running: Demo) -> None:
    for origin, allowed in (("http://localhost:5173", True), ("https://evil.example", False)):
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization",
        }
        answer = httpx.options(running.http + TEXTS, headers=headers, trust_env=False)
        assert (answer.headers.get("Access-Control-Allow-Origin") == origin) is allowed


# ------------------------------------------------------------------------- questions


def test_an_answer_is_passages_then_text_then_end(running: Demo, api: httpx.Client) -> None:
    upload(api, "notes.md", PLANTS)
    with running.ready(PATH, "alice") as talk:
        passages, text = ask(talk, "Why are leaves green?")
        assert [passage["number"] for passage in passages] == [1]
        assert "green because of chlorophyll" in text
        assert "(notes.md, 1)" in text
        assert "fusion" not in text


def test_an_answer_is_cancelled_halfway(running: Demo, api: httpx.Client) -> None:
    upload(api, "long.md", "Leaves are green " + "and greener still " * 30 + ".")
    with running.ready(PATH, "alice") as talk:
        talk.send(type="ask", id=1, data={"text": "Why are leaves green?"})
        for _ in range(4):
            assert talk.receive()["type"] == "chunk"
        talk.send(type="cancel", id=1)
        count = 4
        while (message := talk.receive())["type"] == "chunk":
            count += 1
        assert message == {"type": "end", "id": 1, "cancelled": True}
        assert count < 60
        assert ask(talk, "Why are leaves green?", 2)[0]


@pytest.mark.parametrize("data", [{}, {"text": ""}, {"text": 5}, {"text": "x" * 2_001}, []])
def test_a_question_that_does_not_fit_is_answered(running: Demo, data: Any) -> None:
    with running.ready(PATH, "alice") as talk:
        talk.send(type="ask", id=1, data=data)
        error = talk.receive()
        assert (error["code"], error["fatal"]) == ("invalid_payload", False)


def test_what_was_uploaded_survives_a_kill(tmp_path: Path) -> None:
    options = ("--data", str(tmp_path / "data"))
    with demo(*options, TRIOSERVER_SECRET=SECRET) as first:
        with client(first, "alice") as api:
            told = upload(api, "notes.md", PLANTS).json()
        first.kill()
    with demo(*options, TRIOSERVER_SECRET=SECRET) as second:
        with client(second, "alice") as api:
            (listed,) = api.get(TEXTS).json()["texts"]
            assert listed["text_id"] == told["text_id"]
        with second.ready(PATH, "alice") as talk:
            assert ask(talk, "Why do stars shine?")[0][0]["number"] == 2


def test_no_text_question_or_token_is_in_the_log(running: Demo, api: httpx.Client) -> None:
    upload(api, "private.md", "A most private matter about narwhals.")
    upload(api, "private.pdf", "A most private matter about narwhals.")
    with running.ready(PATH, "alice") as talk:
        ask(talk, "What of narwhals?")
    with pytest.raises(InvalidStatus), running.open(PATH, origin="https://the.last"):
        pass
    log = running.log_until("https://the.last")
    assert "study_text_added" in log
    token = running.token("alice")
    for secret in ("narwhals", "private", token, token.rpartition(".")[2]):
        assert secret not in log
