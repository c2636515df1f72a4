"""Headers and query parameters keep every value, and headers are found in any case."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trioserver.websocket.handshake import Head, read_head
from trioserver.websocket.multi_values import Headers, QueryParams
from trioserver.websocket.request import Request

SECRET = "a-secret"


@pytest.mark.parametrize("name", ["cookie", "Cookie", "COOKIE"])
def test_a_header_is_found_in_any_case_with_all_its_values(name: str) -> None:
    headers = Headers([("Cookie", "a=1"), ("host", "here"), ("cookie", "b=2")])
    assert headers[name] == "a=1"
    assert headers.get(name) == "a=1"
    assert name in headers
    assert headers.getlist(name) == ["a=1", "b=2"]
    assert [*headers] == ["cookie", "host"]
    assert headers.multi_items() == [("cookie", "a=1"), ("cookie", "b=2"), ("host", "here")]


def test_a_name_that_is_missing_has_no_values() -> None:
    headers = Headers({"host": "here"})
    assert headers.getlist("cookie") == []
    assert headers.get("cookie") is None
    assert "cookie" not in headers
    with pytest.raises(KeyError):
        headers["cookie"]


def test_names_of_parameters_are_compared_with_case() -> None:
    params = QueryParams([("tag", "1"), ("Tag", "2"), ("tag", "3"), ("empty", "")])
    assert (params["tag"], params["Tag"], params["empty"]) == ("1", "2", "")
    assert params.getlist("tag") == ["1", "3"]
    assert len(params) == 3


def test_neither_names_nor_values_are_in_the_repr() -> None:
    request = Request(path="/", query={SECRET: SECRET}, headers={SECRET: SECRET})
    assert SECRET not in repr(request)
    assert SECRET not in repr(request.headers)
    assert SECRET not in repr(request.query)


def test_a_request_that_is_made_of_plain_dicts_has_headers_and_parameters() -> None:
    request = Request(path="/", query={"tag": "1"}, headers={"Authorization": "Bearer x"})
    assert request.headers["authorization"] == "Bearer x"
    assert request.query.getlist("tag") == ["1"]
    assert request == Request(path="/", query={"tag": "1"}, headers={"authorization": "Bearer x"})


async def read(head: bytes) -> Head:
    ours, theirs = trio.testing.memory_stream_pair()
    await theirs.send_all(head)
    return await read_head(ours, max_bytes=2**14)


async def test_what_stands_twice_in_a_head_is_read_twice() -> None:
    head = await read(
        b"GET /ws?tag=1&tag=2&Tag=3 HTTP/1.1\r\nHost: here\r\nX-Tag: a\r\nx-tag: b\r\n\r\n"
    )
    assert head.query.getlist("tag") == ["1", "2"]
    assert head.query["tag"] == "1"
    assert Headers(head.header_pairs).getlist("X-Tag") == ["a", "b"]
