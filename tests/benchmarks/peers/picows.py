"""picows, with uvloop: the ceiling. It sends back what comes, and knows nobody."""

from __future__ import annotations

from typing import Any

import uvloop
from picows import WSFrame, WSListener, WSMsgType, WSTransport, ws_create_server

from tests.benchmarks.peers.common import announce, tls
from tests.benchmarks.settings import BACKLOG, HOST, Settings


class Echo(WSListener):
    def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
        if frame.msg_type == WSMsgType.TEXT:
            transport.send(WSMsgType.TEXT, frame.get_payload_as_memoryview())
        elif frame.msg_type == WSMsgType.CLOSE:
            transport.send_close(frame.get_close_code(), frame.get_close_message())
            transport.disconnect()


def listen(request: Any) -> WSListener:
    return Echo()


async def main() -> None:
    context = tls(Settings.load())
    server = await ws_create_server(listen, HOST, 0, ssl=context, backlog=BACKLOG)
    announce(server.sockets[0].getsockname()[1])
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())
