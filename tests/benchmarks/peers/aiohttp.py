"""aiohttp, with uvloop."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any

import uvloop
from aiohttp import WSMsgType, web

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
subscribers: defaultdict[str, set[web.WebSocketResponse]] = defaultdict(set)
offsets: defaultdict[str, int] = defaultdict(int)


async def room(request: web.Request) -> web.WebSocketResponse:
    room_id = request.match_info["room_id"]
    websocket = web.WebSocketResponse(heartbeat=HEARTBEAT)
    await websocket.prepare(request)
    try:
        await websocket.send_str(HELLO)
        user = await authenticate(websocket, room_id)
        await websocket.send_str(ready(user, room_id))
        async for message in websocket:
            if message.type is WSMsgType.TEXT:
                await websocket.send_str(await answer(websocket, parse_request(message.data)))
    except Refusal as refusal:
        await websocket.send_str(refusal.text)
        await websocket.close(code=1008, message=refusal.code.encode())
    except ConnectionError:
        pass
    finally:
        for members in subscribers.values():
            members.discard(websocket)
    return websocket


async def authenticate(websocket: web.WebSocketResponse, room_id: str) -> str:
    user = verify(await websocket.receive_str(timeout=AUTH_TIMEOUT), settings.secret)
    if settings.inline_lookups:
        rooms.check(user, room_id)
    else:
        await asyncio.to_thread(rooms.check, user, room_id)
    return user


async def answer(websocket: web.WebSocketResponse, request: dict[str, Any]) -> str:
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
                await subscriber.send_str(text)
            return ack(request, {"offset": offsets[topic]})


async def main() -> None:
    app = web.Application()
    app.router.add_get("/ws/rooms/{room_id}", room)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, HOST, 0, backlog=BACKLOG, ssl_context=tls(settings)).start()
    announce(runner.addresses[0][1])
    await asyncio.Event().wait()


if __name__ == "__main__":
    uvloop.run(main())
