"""Python's WebSocket clients: ``python -m tests.interop.python_clients NAME URL TOKEN``.

Prints the answer, and the code of the close that the client saw where it tells one.
"""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable
from typing import Any, Final
from urllib.parse import urlsplit

import trio

from tests.interop.conversation import SUBPROTOCOL, converse, converse_async


def aiohttp(url: str, token: str) -> tuple[str, int | None]:
    import aiohttp

    async def main() -> tuple[str, int | None]:
        async with aiohttp.ClientSession() as session:
            async with session.ws_connect(url, protocols=[SUBPROTOCOL]) as websocket:
                answer = await converse_async(token, websocket.send_str, websocket.receive_str)
            return answer, websocket.close_code

    return asyncio.run(main())


def websockets_asyncio(url: str, token: str) -> tuple[str, int | None]:
    from websockets.asyncio.client import connect

    async def main() -> tuple[str, int | None]:
        async with connect(url) as websocket:
            answer = await converse_async(token, websocket.send, websocket.recv)
        return answer, websocket.close_code

    return asyncio.run(main())


def websockets_sync(url: str, token: str) -> tuple[str, int | None]:
    from websockets.sync.client import connect

    with connect(url, subprotocols=[SUBPROTOCOL]) as websocket:  # type: ignore[list-item]
        answer = converse(token, websocket.send, websocket.recv)
    return answer, websocket.close_code


def trio_websocket(url: str, token: str) -> tuple[str, int | None]:
    from trio_websocket import open_websocket_url

    async def main() -> tuple[str, int | None]:
        async with open_websocket_url(url) as websocket:
            answer = await converse_async(token, websocket.send_message, websocket.get_message)
        return answer, websocket.closed.code if websocket.closed else None

    return trio.run(main)


def websocket_client(url: str, token: str) -> tuple[str, int | None]:
    import websocket

    client = websocket.create_connection(url, timeout=30)
    answer = converse(token, client.send, client.recv)
    client.close()
    return answer, None


def httpx_ws(url: str, token: str) -> tuple[str, int | None]:
    from httpx_ws import connect_ws

    websocket: Any
    with connect_ws(url, subprotocols=[SUBPROTOCOL]) as websocket:
        answer = converse(token, websocket.send_text, websocket.receive_text)
    return answer, None


def picows(url: str, token: str) -> tuple[str, int | None]:
    import picows

    async def main() -> tuple[str, int | None]:
        heard: asyncio.Queue[str] = asyncio.Queue()

        class Listener(picows.WSListener):
            def on_ws_frame(self, transport: Any, frame: Any) -> None:
                if frame.msg_type == picows.WSMsgType.TEXT:
                    heard.put_nowait(frame.get_payload_as_utf8_text())

        transport, _ = await picows.ws_connect(Listener, url)

        async def send(text: str) -> None:
            transport.send(picows.WSMsgType.TEXT, text.encode())

        answer = await converse_async(token, send, heard.get)
        transport.send_close(picows.WSCloseCode.OK)
        await transport.wait_disconnected()
        return answer, None

    return asyncio.run(main())


def wsproto(url: str, token: str) -> tuple[str, int | None]:
    """The protocol alone, on a socket."""
    from wsproto import ConnectionType, WSConnection
    from wsproto.events import AcceptConnection, CloseConnection, Request, TextMessage

    parts = urlsplit(url)
    connection = WSConnection(ConnectionType.CLIENT)
    texts: list[str] = []
    code: int | None = None
    with socket.create_connection((parts.hostname, parts.port), timeout=30) as sock:

        def pump() -> None:
            nonlocal code
            data = sock.recv(65536)
            connection.receive_data(data or None)
            for event in connection.events():
                if isinstance(event, TextMessage):
                    texts.append(event.data)
                elif isinstance(event, CloseConnection):
                    code = event.code
                else:
                    assert isinstance(event, AcceptConnection), event

        def receive() -> str:
            while not texts:
                pump()
            return texts.pop(0)

        sock.sendall(connection.send(Request(host=parts.netloc, target=parts.path)))
        answer = converse(
            token, lambda text: sock.sendall(connection.send(TextMessage(data=text))), receive
        )
        sock.sendall(connection.send(CloseConnection(code=1000)))
        while code is None:
            pump()
    return answer, code


CLIENTS: Final[dict[str, Callable[[str, str], tuple[str, int | None]]]] = {
    "aiohttp": aiohttp,
    "websockets, asyncio": websockets_asyncio,
    "websockets, threads": websockets_sync,
    "trio-websocket": trio_websocket,
    "websocket-client": websocket_client,
    "httpx-ws": httpx_ws,
    "picows": picows,
    "wsproto": wsproto,
}


def main() -> None:
    name, url, token = sys.argv[1:]
    answer, code = CLIENTS[name](url, token)
    print(f"{answer} | {code}")


if __name__ == "__main__":
    main()
