"""trioserver, with everything on: limits, heartbeat, counters, log, typed payloads.

Three limits are not the defaults: the messages a second, which would be the result otherwise, and
how many may connect, which a storm of 2,000 and a row of 10,000 need.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

import attrs
import structlog

from tests.benchmarks.peers.common import announce
from tests.benchmarks.settings import TOPIC, Settings
from trioserver import Application, Config, Connection, JWTAuth, LimitsConfig, Server, run
from trioserver.auth import SQLAuthorizer

# All limits are on, and above what one generator at one address does.
LIMITS: Final = LimitsConfig(
    max_connections=20_000,
    max_unauthenticated=20_000,
    max_unauthenticated_per_address=20_000,
    handshakes_per_second=1_000_000,
    messages_per_second=10_000_000,
    bytes_per_second=1_000_000_000,
)


@attrs.frozen
class Message:
    text: str


@attrs.frozen
class Length:
    length: int


def make_application(settings: Settings) -> Application:
    app = Application(auth=JWTAuth(secret=settings.secret))
    owner = SQLAuthorizer(f"sqlite:///{settings.database}", table="rooms")
    rooms = app.route("/ws/rooms/{room_id}", authorize=owner)

    def handle(connection: Connection, message: Message) -> Length:
        return Length(len(message.text))

    async def handle_async(connection: Connection, message: Message) -> Length:
        return Length(len(message.text))

    rooms.on("message")(handle_async if settings.async_handler else handle)

    @rooms.allow_subscribe
    @rooms.allow_publish
    def may(connection: Connection, topic: str) -> bool:
        return topic == TOPIC

    return app


def main() -> None:
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(file=sys.stderr))
    settings = Settings.load()
    files = (settings.certificate, settings.key)
    certificate, key = (None if file is None else Path(file) for file in files)
    config = Config(port=0, certificate=certificate, key=key, limits=LIMITS)

    def tell(server: Server) -> None:
        assert server.addresses[0].port is not None
        announce(server.addresses[0].port)

    run(make_application(settings), config, on_start=tell)


if __name__ == "__main__":
    main()
