"""Logging for programs: its two formats, and what is never in it."""

from __future__ import annotations

import errno
import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import pytest
import structlog

from trioserver.logs.setup import set_up_logging

LOCAL = "eyJ-a-token-in-a-local-variable"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = [*root.handlers], root.level
    root.handlers = []
    yield
    root.handlers, root.level = handlers, level
    structlog.reset_defaults()


def logged(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with_a_token_in_reach() -> None:
    token = LOCAL
    raise RuntimeError("failed" if token else "")


def log_a_failure() -> None:
    try:
        fail_with_a_token_in_reach()
    except RuntimeError:
        structlog.get_logger().exception("it_failed")
        logging.getLogger("some.library").exception("it failed there")


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()], ids=["a pipe", "a terminal"])
@pytest.mark.parametrize("format", ["text", "json", "auto"])
def test_a_traceback_has_no_local_variables(format: str, stream: io.StringIO) -> None:
    stream.truncate(0)
    set_up_logging(format=format, stream=stream)
    log_a_failure()
    assert stream.getvalue().count("fail_with_a_token_in_reach()") == 2
    assert LOCAL not in stream.getvalue()


def test_a_traceback_is_plain_text_also_in_json() -> None:
    stream = io.StringIO()
    set_up_logging(format="json", stream=stream)
    log_a_failure()
    for line in logged(stream):
        assert isinstance(line["exception"], str)
        assert line["exception"].startswith("Traceback (most recent call last):")


def test_a_traceback_that_the_server_formatted_has_the_same_name() -> None:
    stream = io.StringIO()
    set_up_logging(format="json", stream=stream)
    structlog.get_logger().error("connection_crashed", traceback="Traceback\n  here\n")
    assert logged(stream)[0]["exception"] == "Traceback\n  here\n"


def test_auto_is_coloured_text_on_a_terminal() -> None:
    stream = Terminal()
    set_up_logging(stream=stream)
    structlog.get_logger().info("listening", port=8765)
    assert "\x1b[" in stream.getvalue()
    assert "listening" in stream.getvalue()


def test_auto_is_json_lines_elsewhere() -> None:
    stream = io.StringIO()
    set_up_logging(stream=stream)
    structlog.get_logger().info("listening", port=8765)
    (line,) = logged(stream)
    assert (line["event"], line["level"], line["port"]) == ("listening", "info", 8765)


def test_text_that_is_no_terminal_has_no_colours() -> None:
    stream = io.StringIO()
    set_up_logging(format="text", stream=stream)
    structlog.get_logger().info("listening")
    assert "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("format", ["text", "json"])
def test_times_are_iso_8601_in_utc(format: str) -> None:
    stream = io.StringIO()
    set_up_logging(format=format, stream=stream)
    structlog.get_logger().info("listening")
    assert re.search(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", stream.getvalue())


def test_what_a_peer_chose_does_not_command_the_terminal() -> None:
    stream = io.StringIO()
    set_up_logging(format="text", stream=stream)
    structlog.get_logger().info("refused", path="/\x1b[2J\nforged line")
    logging.getLogger("some.library").warning("\x1b[2J\nforged line")
    try:
        raise RuntimeError("\x1b[2J")
    except RuntimeError:
        structlog.get_logger().exception("it_failed")
    assert "\x1b" not in stream.getvalue()
    assert "\nforged" not in stream.getvalue()


@pytest.mark.parametrize(
    ("level", "heard"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_the_level_is_for_the_server_and_the_application(level: str, heard: list[str]) -> None:
    stream = io.StringIO()
    set_up_logging(format="json", level=level, stream=stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger(), name)("event")
    assert [line["level"] for line in logged(stream)] == heard


def test_libraries_are_heard_from_warning_on_in_the_same_format() -> None:
    stream = io.StringIO()
    set_up_logging(format="json", level="debug", stream=stream)
    library = logging.getLogger("some.library")
    library.info("not heard")
    library.warning("heard %d times", 2)
    (line,) = logged(stream)
    assert line["event"] == "heard 2 times"
    assert line["logger"] == "some.library"
    assert line["level"] == "warning"
    assert "timestamp" in line


@pytest.mark.parametrize("name", ["trio-websocket", "wsproto", "wsproto.frame_protocol"])
def test_payloads_are_not_logged_even_where_an_application_asks_for_all(name: str) -> None:
    stream = io.StringIO()
    set_up_logging(format="json", level="debug", stream=stream)
    logging.getLogger().setLevel(logging.DEBUG)
    logging.getLogger(name).debug("received %s", "a payload")
    assert stream.getvalue() == ""


class FullDisk(io.StringIO):
    """Takes lines while there is room."""

    room = True

    def write(self, text: str) -> int:
        if not self.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


@pytest.mark.parametrize("format", ["json", "text"])
def test_a_full_disk_raises_nothing_and_the_lines_it_cost_are_counted_once(format: str) -> None:
    stream = FullDisk()
    set_up_logging(format=format, stream=stream)
    log = structlog.get_logger()
    log.info("before")
    stream.room = False
    for _ in range(3):
        log.info("lost")
    logging.getLogger("library").warning("lost as well")
    stream.room = True
    log.info("first")
    log.info("second")
    before, first, second = stream.getvalue().splitlines()
    assert "before" in before
    assert re.search(r"lines_lost_before\D+4\b", first)
    assert "lines_lost_before" not in second


def test_a_log_that_was_closed_raises_nothing() -> None:
    stream = io.StringIO()
    set_up_logging(format="json", stream=stream)
    stream.close()
    structlog.get_logger().info("nobody reads it")
