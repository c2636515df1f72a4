"""Exceptions in the log: where it failed and what failed, without what the exception says."""

from __future__ import annotations

import errno
import io
import json
import ssl
from collections.abc import Callable, Iterator

import pytest
import structlog

from protocol import Refusal
from trioserver.logs.setup import set_up_logging
from trioserver.logs.tracebacks import name_of, show_exception_messages, traceback_of
from trioserver.storage import DatabaseUnavailableError

SECRET = "eyJ-a-token-that-a-library-quotes"


@pytest.fixture(autouse=True)
def hidden_again() -> Iterator[None]:
    yield
    show_exception_messages(False)
    structlog.reset_defaults()


def raised(function: Callable[[], object]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def fail() -> None:
    raise ValueError(SECRET)


def fail_because() -> None:
    try:
        fail()
    except ValueError as error:
        raise RuntimeError(SECRET) from error


def fail_while_handling() -> None:
    try:
        fail()
    except ValueError:
        dict[str, str]()[SECRET]


def fail_in_a_group() -> None:
    error = raised(fail_because)
    assert isinstance(error, Exception)
    error.add_note(SECRET)
    raise ExceptionGroup(SECRET, [error, OSError(errno.ENOSPC, SECRET, SECRET)])


def fail_at_the_syntax() -> None:
    compile(f"x = '{SECRET}", "<text>", "exec")


def stop() -> None:
    raise StopIteration({"password_hash": SECRET})


@pytest.mark.parametrize(
    "function",
    [fail, fail_because, fail_while_handling, fail_in_a_group, fail_at_the_syntax, stop],
)
def test_no_traceback_has_the_text_of_an_exception(function: Callable[[], object]) -> None:
    text = traceback_of(raised(function))
    assert SECRET not in text
    assert text.startswith("Traceback (most recent call last):\n")
    assert f"in {function.__name__}\n" in text
    assert __file__ in text


def test_it_says_which_line_of_which_function_raised_what() -> None:
    lines = traceback_of(raised(fail)).splitlines()
    assert lines[-3].endswith(f"line {fail.__code__.co_firstlineno + 1}, in fail")
    assert lines[-2:] == ["    raise ValueError(SECRET)", "ValueError"]


def test_causes_contexts_and_groups_are_told() -> None:
    text = traceback_of(raised(fail_because))
    assert "direct cause of the following exception" in text
    assert text.index("ValueError\n") < text.index("RuntimeError\n")
    text = traceback_of(raised(fail_while_handling))
    assert "During handling of the above exception" in text
    assert text.endswith("KeyError\n")
    text = traceback_of(raised(fail_in_a_group))
    assert "ExceptionGroup (2 sub-exceptions)\n" in text
    assert "  | RuntimeError\n" in text
    assert "  | OSError: [Errno 28] No space left on device\n" in text


def test_a_suppressed_context_is_not_told() -> None:
    def suppress() -> None:
        try:
            fail()
        except ValueError:
            raise RuntimeError from None

    assert "ValueError" not in traceback_of(raised(suppress)).replace("except ValueError", "")


def test_a_chain_that_bites_its_tail_has_an_end() -> None:
    one, other = ValueError(), RuntimeError()
    one.__cause__, other.__cause__ = other, one
    assert traceback_of(one).count("ValueError") == 1


def test_the_stack_of_an_endless_recursion_is_cut_in_the_middle() -> None:
    def one(n: int) -> None:
        other(n + 1)

    def other(n: int) -> None:
        one(n + 1)

    text = traceback_of(raised(lambda: one(0)))
    assert "more frames ...\n" in text
    assert text.endswith("RecursionError\n")
    assert len(text) < 20_000


class Known(Exception):
    safe_to_log = True


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError(SECRET), "ValueError"),
        (json.JSONDecodeError(SECRET, SECRET, 0), "json.decoder.JSONDecodeError"),
        (FileNotFoundError(errno.ENOENT, "x", SECRET), "FileNotFoundError: [Errno 2] No such file"),
        (OSError(SECRET), "OSError"),
        (ssl.SSLError(1, SECRET), "ssl.SSLError"),
        (Refusal("not_found", SECRET), ".Refusal: not_found"),
        (
            DatabaseUnavailableError("timeout", "It is slow."),
            "DatabaseUnavailableError: It is slow.",
        ),
        (Known("two of three answered"), "Known: two of three answered"),
    ],
)
def test_a_name_has_the_text_of_types_that_quote_nothing(error: Exception, name: str) -> None:
    assert name in name_of(error)
    assert SECRET not in name_of(error)


def test_a_developer_can_have_the_text_too() -> None:
    show_exception_messages(True)
    assert traceback_of(raised(fail_because)).count(SECRET) == 2
    assert name_of(ValueError(SECRET)) == f"ValueError: {SECRET}"


@pytest.mark.parametrize(("shown", "times"), [("off", 0), ("on", 1)])
def test_what_the_application_logs_keeps_to_the_option(shown: str, times: int) -> None:
    stream = io.StringIO()
    set_up_logging(format="json", exception_messages=shown, stream=stream)
    try:
        fail()
    except ValueError:
        structlog.get_logger().exception("it_failed")
    (line,) = map(json.loads, stream.getvalue().splitlines())
    assert line["exception"].count(SECRET) == times
    assert "in fail\n" in line["exception"]
