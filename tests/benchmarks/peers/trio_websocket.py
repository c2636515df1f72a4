"""trio-websocket, with nothing around it. It has no heartbeat of its own."""

from __future__ import annotations

from collections import defaultdict
from functools import partial
from typing import Any

import trio
from trio_websocket import ConnectionClosed, WebSocketConnection, WebSocketRequest, serve_websocket

from tests.benchmarks.peers.common import (
    AUTH_TIMEOUT,
    HELLO,
    Refusal,
    Rooms,
    ack,
    announce,
    event,
    handle,
    parse_request,
    ready,
    tls,
    verify,
)
from tests.benchmarks.settings import HOST, Settings

settings = Settings.load()
rooms = Rooms(settings.database)
subscribers: defaultdict[str, set[WebSocketConnection]] = defaultdict(set)
offsets: defaultdict[str, int] = defaultdict(int)


async def room(request: WebSocketRequest) -> None:
    room_id = request.path.removeprefix("/ws/rooms/")
    websocket = await request.accept()
    try:
        await websocket.send_message(HELLO)
        user = await authenticate(websocket, room_id)
        await websocket.send_message(ready(user, room_id))
        while True:
            text = await websocket.get_message()
            await websocket.send_message(await answer(websocket, parse_request(text)))
    except ConnectionClosed:
        pass
    except Refusal as refusal:
        await websocket.send_message(refusal.text)
        await websocket.aclose(1008, refusal.code)
    finally:
        for members in subscribers.values():
            members.discard(websocket)


async def authenticate(websocket: WebSocketConnection, room_id: str) -> str:
    with trio.fail_after(AUTH_TIMEOUT):
        user = verify(await websocket.get_message(), settings.secret)
        if settings.inline_lookups:
            rooms.check(user, room_id)
        else:
            await trio.to_thread.run_sync(rooms.check, user, room_id)
    return user


async def answer(websocket: WebSocketConnection, request: dict[str, Any]) -> str:
    match request["type"]:
        case "message":
            return ack(request, handle(request))
        case "subscribe":
            for topic in request["topics"]:
                subscribers[topic].add(websocket)
            return ack(request)
        case _:
            topic = request["topic"]
            offsets[topic] += 1
            text = event(topic, offsets[topic], request["data"])
            for subscriber in list(subscribers[topic]):
                await subscriber.send_message(text)
            return ack(request, {"offset": offsets[topic]})


async def main() -> None:
    async with trio.open_nursery() as nursery:
        start = partial(serve_websocket, room, HOST, 0, tls(settings))
        server = await nursery.start(start)
        announce(server.port)


if __name__ == "__main__":
    trio.run(main)
