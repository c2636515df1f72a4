"""The generator's connections: many sockets in one epoll, from connecting to `ready`."""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, Final

import jwt

from tests.benchmarks.settings import HOST, TOPIC, Job
from tests.benchmarks.wire import PONG, Reader, Refused, frame, message, upgrade

READ_BYTES: Final = 16384

_READABLE: Final = select.EPOLLIN
_BOTH: Final = select.EPOLLIN | select.EPOLLOUT

_OPENING_TIMEOUT: Final = 120.0
"""Seconds for all of a measurement's connections to become ready."""

_TOKEN_LIFETIME: Final = 7200

_RESET: Final = struct.pack("ii", 1, 0)
"""Close with a reset: thousands of closed connections must not keep their ports for a minute."""

_NOT_NOW: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class Client:
    """One connection. ``times`` has when each request without an answer was due, oldest first."""

    __slots__ = ("began", "number", "reader", "sent", "sock", "step", "times", "unsent")

    def __init__(self, sock: socket.socket, number: int) -> None:
        self.sock = sock
        self.number = number
        self.reader = Reader()
        self.sent = 0  # requests
        self.times: deque[float] = deque()
        self.unsent = memoryview(b"")
        self.began = time.perf_counter()
        self.step: Callable[[Client, bytes], bool] | None = None  # None when ready

    def receive(self) -> bytes:
        """What has arrived; empty where nothing has. Raises `Refused` at the end."""
        try:
            data = self.sock.recv(READ_BYTES)
        except _NOT_NOW:
            return b""
        if not data:
            raise Refused("the server has closed the connection")
        if isinstance(self.sock, ssl.SSLSocket):  # epoll does not see what is decrypted already
            with suppress(*_NOT_NOW):
                while len(data) < READ_BYTES and (more := self.sock.recv(READ_BYTES)):
                    data += more
        return data


class Clients:
    """All connections of a measurement. A context manager; at its end they are reset."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._tls = None
        if job.authority is not None:
            self._tls = ssl.create_default_context(cafile=job.authority)
        self._epoll = select.epoll()
        self._by_fd: dict[int, Client] = {}
        self.all: list[Client] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.all:
            client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            client.sock.close()
        self._epoll.close()

    # ---------------------------------------------------------------------- opening

    def open(self, count: int, *, at_once: int = 64) -> list[float]:
        """Make ``count`` more connections ready, ``at_once`` of them under way at a time.

        Returns how many seconds each took. Raises `Refused`, and `TimeoutError`.
        """
        openings = iter(self._openings(len(self.all), count))
        deadline = time.perf_counter() + _OPENING_TIMEOUT
        under_way, took = 0, list[float]()
        while len(took) < count:
            while under_way < at_once and (opening := next(openings, None)) is not None:
                self._connect(*opening)
                under_way += 1
            for client, data in self.receive(1.0):
                if client.step is not None and client.step(client, data):
                    client.step = None
                    under_way -= 1
                    took.append(time.perf_counter() - client.began)
            if time.perf_counter() > deadline:
                raise TimeoutError(f"{count - len(took)} of {count} did not become ready")
        return took

    def _openings(self, first: int, count: int) -> list[tuple[int, bytes, bytes]]:
        """Number, upgrade request and `auth` of each, made before any clock is looked at."""
        expires = int(time.time()) + _TOKEN_LIFETIME
        openings = []
        for number in range(first, first + count):
            token = jwt.encode({"sub": f"user-{number}", "exp": expires}, self._job.secret)
            request = upgrade(f"{HOST}:{self._job.port}", f"/ws/rooms/{number}")
            openings.append((number, request, message(type="auth", token=token)))
        return openings

    def _connect(self, number: int, request: bytes, auth: bytes) -> None:
        sock = socket.socket()
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client = Client(sock, number)
        address = (HOST, self._job.port)
        if self._tls is not None:
            sock.connect(address)
            client.sock = self._tls.wrap_socket(sock, server_hostname=HOST)
        else:
            sock.setblocking(False)
            with suppress(BlockingIOError):
                sock.connect(address)
        client.sock.setblocking(False)
        client.step = _Opening(self, auth if self._job.speaks == "trioserver" else None)
        client.unsent = memoryview(request)  # leaves as soon as the socket is connected
        self.all.append(client)
        self._by_fd[client.sock.fileno()] = client
        self._epoll.register(client.sock.fileno(), _BOTH)

    def ask(self, client: Client, **fields: Any) -> bytes:
        """Send a message and wait for the next that comes. Raises `Refused`, `TimeoutError`."""
        self.send(client, message(**fields))
        deadline = time.perf_counter() + _OPENING_TIMEOUT
        while time.perf_counter() < deadline:
            for other, data in self.receive(1.0):
                if other.reader.feed(data) and other is client:
                    return client.reader.text()
        raise TimeoutError("no answer")

    def subscribe(self, client: Client) -> None:
        """Let it hear the topic."""
        answer = self.ask(client, type="subscribe", id=1, topics=[TOPIC])
        if b'"ack"' not in answer:
            raise Refused(f"to subscribe: {answer!r}")

    # ---------------------------------------------------------------------- sending, receiving

    def receive(self, timeout: float) -> Iterator[tuple[Client, bytes]]:
        """What has arrived within ``timeout``; what could not be sent before is sent meanwhile."""
        by_fd = self._by_fd
        for fd, events in self._epoll.poll(timeout, 1024):
            client = by_fd[fd]
            if client.unsent and events & select.EPOLLOUT:
                self._flush(client)
            if events & ~select.EPOLLOUT:
                data = client.receive()
                if data:
                    yield client, data
                    if client.reader.pings:
                        self._answer_pings(client)

    def send(self, client: Client, data: bytes | memoryview) -> None:
        """Send now what the socket takes, the rest when it takes more."""
        if client.unsent:
            client.unsent = memoryview(bytes(client.unsent) + bytes(data))
            return
        try:
            sent = client.sock.send(data)
        except _NOT_NOW:
            sent = 0
        if sent < len(data):
            client.unsent = memoryview(data)[sent:]
            self._epoll.modify(client.sock.fileno(), _BOTH)

    def _flush(self, client: Client) -> None:
        try:
            client.unsent = client.unsent[client.sock.send(client.unsent) :]
        except _NOT_NOW:
            return
        except ConnectionError as error:
            raise Refused(f"while sending: {error}") from error
        if not client.unsent:
            self._epoll.modify(client.sock.fileno(), _READABLE)

    def _answer_pings(self, client: Client) -> None:
        for payload in client.reader.pings:
            self.send(client, frame(payload, PONG))
        client.reader.pings.clear()


class _Opening:
    """What a client that is not ready yet does with what it gets. Gives True when it is ready."""

    def __init__(self, clients: Clients, auth: bytes | None) -> None:
        self._clients = clients
        self._auth = auth  # None: ready when upgraded
        self._head: bytes | None = b""  # None when it was complete

    def __call__(self, client: Client, data: bytes) -> bool:
        if self._head is not None:
            head, end, data = (self._head + data).partition(b"\r\n\r\n")
            if not end:
                self._head = head
                return False
            if not head.startswith(b"HTTP/1.1 101"):
                raise Refused(f"the upgrade: {head[:100]!r}")
            self._head = None
            if self._auth is None:
                return True
            self._clients.send(client, self._auth)
        client.reader.feed(data)
        text = client.reader.text()
        if b'"error"' in text:
            raise Refused(f"no. {client.number}: {text!r}")
        return b'"ready"' in text
