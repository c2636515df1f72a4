"""FastAPI on uvicorn, with uvloop and httptools, and pydantic's models for what is sent."""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from typing import Annotated, Any, Literal

import uvicorn
from fastapi import FastAPI, WebSocket, WebSocketDisconnect
from fastapi.concurrency import run_in_threadpool
from pydantic import BaseModel, Field, TypeAdapter, ValidationError

from tests.benchmarks.peers.common import (
    AUTH_TIMEOUT,
    HEARTBEAT,
    HELLO,
    Refusal,
    Rooms,
    announce,
    event,
    ready,
    verify,
)
from tests.benchmarks.settings import BACKLOG, HOST, Settings


class Text(BaseModel):
    text: str


class Message(BaseModel):
    type: Literal["message"]
    id: int | str
    data: Text


class Subscribe(BaseModel):
    type: Literal["subscribe"]
    id: int | str
    topics: list[str]


class Publish(BaseModel):
    type: Literal["publish"]
    id: int | str
    topic: str
    data: Any


class Ack(BaseModel):
    type: Literal["ack"] = "ack"
    id: int | str
    data: dict[str, int] | None = None


requests: TypeAdapter[Message | Subscribe | Publish] = TypeAdapter(
    Annotated[Message | Subscribe | Publish, Field(discriminator="type")]
)

settings = Settings.load()
rooms = Rooms(settings.database)
subscribers: defaultdict[str, set[WebSocket]] = defaultdict(set)
offsets: defaultdict[str, int] = defaultdict(int)
app = FastAPI()


@app.websocket("/ws/rooms/{room_id}")
async def room(websocket: WebSocket, room_id: str) -> None:
    await websocket.accept()
    try:
        await websocket.send_text(HELLO)
        user = await authenticate(websocket, room_id)
        await websocket.send_text(ready(user, room_id))
        while True:
            request = requests.validate_json(await websocket.receive_text())
            await websocket.send_text((await answer(websocket, request)).model_dump_json())
    except WebSocketDisconnect:
        pass
    except Refusal as refusal:
        await websocket.send_text(refusal.text)
        await websocket.close(1008, refusal.code)
    except ValidationError:
        await websocket.close(1008, "invalid_payload")
    finally:
        for members in subscribers.values():
            members.discard(websocket)


async def authenticate(websocket: WebSocket, room_id: str) -> str:
    async with asyncio.timeout(AUTH_TIMEOUT):
        user = verify(await websocket.receive_text(), settings.secret)
        if settings.inline_lookups:
            rooms.check(user, room_id)
        else:
            await run_in_threadpool(rooms.check, user, room_id)
    return user


async def answer(websocket: WebSocket, request: Message | Subscribe | Publish) -> Ack:
    match request:
        case Message():
            return Ack(id=request.id, data={"length": len(request.data.text)})
        case Subscribe():
            for topic in request.topics:
                subscribers[topic].add(websocket)
            return Ack(id=request.id)
        case Publish():
            offsets[request.topic] += 1
            text = event(request.topic, offsets[request.topic], request.data)
            for subscriber in list(subscribers[request.topic]):
                await subscriber.send_text(text)
            return Ack(id=request.id, data={"offset": offsets[request.topic]})


def main() -> None:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((HOST, 0))
    announce(listening.getsockname()[1])
    config = uvicorn.Config(
        app,
        loop="uvloop",
        http="httptools",
        log_level="warning",
        backlog=BACKLOG,
        ws_ping_interval=HEARTBEAT,
        ssl_certfile=settings.certificate,
        ssl_keyfile=settings.key,
    )
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
