"""websockets on asyncio, with uvloop, and its `broadcast` for events."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import uvloop
from websockets.asyncio.server import ServerConnection, broadcast, serve
from websockets.exceptions import ConnectionClosed

from tests.benchmarks.peers.common import (
    AUTH_TIMEOUT,
    HEARTBEAT,
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
from tests.benchmarks.settings import BACKLOG, HOST, Settings

settings = Settings.load()
rooms = Rooms(settings.database)
subscribers: defaultdict[str, set[ServerConnection]] = defaultdict(set)
offsets: defaultdict[str, int] = defaultdict(int)


async def room(websocket: ServerConnection) -> None:
    assert websocket.request is not None
    room_id = websocket.request.path.removeprefix("/ws/rooms/")
    try:
        await websocket.send(HELLO)
        user = await authenticate(websocket, room_id)
        await websocket.send(ready(user, room_id))
        async for text in websocket:
            await websocket.send(answer(websocket, parse_request(text)))
    except ConnectionClosed:
        pass
    except Refusal as refusal:
        await websocket.send(refusal.text)
        await websocket.close(1008, refusal.code)
    finally:
        for members in subscribers.values():
            members.discard(websocket)


async def authenticate(websocket: ServerConnection, room_id: str) -> str:
    async with asyncio.timeout(AUTH_TIMEOUT):
        user = verify(await websocket.recv(decode=True), settings.secret)
        if settings.inline_lookups:
            rooms.check(user, room_id)
        else:
            await asyncio.to_thread(rooms.check, user, room_id)
    return user


def answer(websocket: ServerConnection, request: dict[str, Any]) -> str:
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
            broadcast(subscribers[topic], event(topic, offsets[topic], request["data"]))
            return ack(request, {"offset": offsets[topic]})


async def main() -> None:
    async with serve(
        room, HOST, 0, ssl=tls(settings), backlog=BACKLOG, ping_interval=HEARTBEAT
    ) as server:
        announce(next(iter(server.sockets)).getsockname()[1])
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
