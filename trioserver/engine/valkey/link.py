"""One connection to a Valkey or Redis server: RESP3, pipelined, with deadlines.

Commands are answered in the order in which they were sent. Pushes (messages of subscribed
channels) stand between the answers where the server wrote them, so the order of an answer and of a
push is that of the server.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Final

import attrs
import hiredis
import outcome
import trio

QUIET: Final = 2.0
"""Seconds without a byte from the server, after which a PING is sent."""

PATIENCE: Final = 2.0
"""Seconds that the server has to answer a PING. A dead server is noticed within
QUIET + PATIENCE."""

MAX_OUTSTANDING: Final = 4 * 1024 * 1024
"""Bytes of commands without an answer; who has more to send waits."""

_HELD_UP: Final = 0.2
"""Seconds by which a sleep may be late before this process counts as busy."""

_CHUNK: Final = 64 * 1024

_GIVE_UP: Final = (
    "READONLY",
    "LOADING",
    "MASTERDOWN",
    "MOVED",
    "NOREPLICAS",
    "NOSCRIPT",
    "CLUSTERDOWN",
)
"""Errors that say that this server cannot be used for now, and that the command was not done."""

_CONFIRMATIONS: Final = (b"subscribe", b"unsubscribe")
_PING: Final = hiredis.pack_command((b"PING",))
_NOTHING: Final = object()

Push = Callable[[list[Any]], None]


class LinkLost(Exception):
    """The connection failed. ``sent`` is False if the command was certainly not done."""

    def __init__(self, reason: str, *, sent: bool) -> None:
        super().__init__(reason)
        self.reason = reason
        self.sent = sent


class ServerError(Exception):
    """The server answered a command with an error."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.code = message.partition(" ")[0]


@attrs.define(eq=False)
class _Pending:
    """A command without an answer; ``task`` waits for it, unless it was cancelled."""

    size: int
    pushes: int = 0
    """Channels of a SUBSCRIBE or UNSUBSCRIBE, each of which is answered by a push."""
    task: trio.lowlevel.Task | None = None
    callback: Callable[[Any], None] | None = None

    def resolve(self, reply: outcome.Outcome[Any]) -> None:
        if self.task is not None:
            task, self.task = self.task, None
            trio.lowlevel.reschedule(task, reply)
        elif self.callback is not None and isinstance(reply, outcome.Value):
            self.callback(reply.value)


class Link:
    """A connection on which commands are sent by `call` and `send` while `run` runs.

    ``on_push`` gets each push; it must neither block nor raise.
    """

    def __init__(self, stream: trio.abc.Stream, on_push: Push | None = None) -> None:
        self._stream = stream
        self._on_push = on_push
        self._reader = hiredis.Reader(notEnoughData=_NOTHING)
        self._pending: deque[_Pending] = deque()
        self._unsent = bytearray()
        self._unsent_commands = 0
        self._outstanding = 0
        self._has_unsent = trio.Event()
        self._has_room = trio.Event()
        self._heard_at = trio.current_time()
        self._lost: LinkLost | None = None

    @property
    def outstanding(self) -> int:
        """Bytes of commands that have no answer yet."""
        return self._outstanding

    async def call(self, *command: bytes | str | int) -> Any:
        """Send a command and return its answer.

        Raises `ServerError` if the answer is one, and `LinkLost`. If it is cancelled, the command
        may be done or not.
        """
        while self._outstanding > MAX_OUTSTANDING:
            if self._has_room.is_set():
                self._has_room = trio.Event()
            await self._has_room.wait()
        pending = self._put(_packed(command))
        pending.task = trio.lowlevel.current_task()

        def abort(_: object) -> trio.lowlevel.Abort:
            pending.task = None
            return trio.lowlevel.Abort.SUCCEEDED

        return await trio.lowlevel.wait_task_rescheduled(abort)

    def send(
        self, *command: bytes | str | int, callback: Callable[[Any], None] | None = None
    ) -> None:
        """Send a command without waiting; ``callback`` gets its answer, unless that is an error.

        Raises `LinkLost`. Whoever sends without end looks at `outstanding`.
        """
        self._put(_packed(command)).callback = callback

    def subscribe(self, *channels: str | bytes) -> None:
        """Subscribe to channels, whose messages are pushes from now on. Raises `LinkLost`."""
        self._put(_packed(("SUBSCRIBE", *channels))).pushes = len(channels)

    def unsubscribe(self, *channels: str | bytes) -> None:
        """Subscribe to channels no more. Raises `LinkLost`."""
        self._put(_packed(("UNSUBSCRIBE", *channels))).pushes = len(channels)

    async def run(self) -> None:
        """Send, receive and look after the connection. Ends only with `LinkLost`, or cancelled.

        In both cases the connection is closed and all calls that wait have failed.
        """
        try:
            async with trio.open_nursery() as nursery:
                for part in (self._send_commands, self._receive, self._watch):
                    nursery.start_soon(self._run_part, part, nursery.cancel_scope)
        finally:
            self._lose("the connection was closed")
            with trio.CancelScope(shield=True):
                await trio.aclose_forcefully(self._stream)
        assert self._lost is not None
        raise self._lost

    async def _run_part(self, part: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await part()
        except LinkLost as lost:
            self._lose(lost.reason)
            scope.cancel()

    def _put(self, packed: bytes) -> _Pending:
        if self._lost is not None:
            raise LinkLost(self._lost.reason, sent=False)
        pending = _Pending(len(packed))
        self._pending.append(pending)
        self._outstanding += len(packed)
        self._unsent += packed
        self._unsent_commands += 1
        self._has_unsent.set()
        return pending

    async def _send_commands(self) -> None:
        while True:
            await self._has_unsent.wait()
            self._has_unsent = trio.Event()
            unsent, self._unsent = self._unsent, bytearray()
            self._unsent_commands = 0
            if unsent:
                try:
                    await self._stream.send_all(unsent)
                except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                    raise LinkLost(reason_of(error), sent=True) from error

    async def _receive(self) -> None:
        reader, receive = self._reader, self._stream.receive_some
        while True:
            try:
                data = await receive(_CHUNK)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
                raise LinkLost(reason_of(error), sent=True) from error
            if not data:
                raise LinkLost("the server closed the connection", sent=True)
            self._heard_at = trio.current_time()
            reader.feed(bytes(data))
            try:
                while (reply := reader.gets()) is not _NOTHING:
                    if type(reply) is not hiredis.PushNotification:
                        self._answer(reply)
                    elif reply[0] in _CONFIRMATIONS:
                        self._confirm()
                    elif self._on_push is not None:
                        self._on_push(reply)
            except hiredis.ProtocolError as error:
                raise LinkLost("the server does not speak RESP3", sent=True) from error
            if self._outstanding <= MAX_OUTSTANDING:
                self._has_room.set()

    def _confirm(self) -> None:
        """Count the push for one channel of a SUBSCRIBE; it stands where its answer would."""
        if self._pending and self._pending[0].pushes:
            self._pending[0].pushes -= 1
            if not self._pending[0].pushes:
                self._outstanding -= self._pending.popleft().size

    def _answer(self, reply: Any) -> None:
        if not self._pending:
            raise LinkLost("the server sent an answer that belongs to no command", sent=True)
        pending = self._pending.popleft()
        self._outstanding -= pending.size
        if not isinstance(reply, hiredis.ReplyError):
            pending.resolve(outcome.Value(reply))
            return
        text = str(reply)
        code = _code_of(text)
        if code in _GIVE_UP:
            pending.resolve(outcome.Error(LinkLost(f"the server answered {code}", sent=False)))
            raise LinkLost(f"the server answered {code}", sent=True)
        if pending.pushes:
            raise LinkLost(f"the server refused a subscription: {code}", sent=True)
        pending.resolve(outcome.Error(ServerError(text)))

    async def _watch(self) -> None:
        while True:
            quiet_for = trio.current_time() - self._heard_at
            if quiet_for < QUIET:
                await trio.sleep(QUIET - quiet_for)
                continue
            heard_at, asked_at = self._heard_at, trio.current_time()
            self._put(_PING)
            await trio.sleep(PATIENCE)
            while trio.current_time() - asked_at > PATIENCE + _HELD_UP:
                # This process was held up itself: what came meanwhile is yet to be read.
                asked_at = trio.current_time()
                await trio.sleep(PATIENCE / 2)
            if self._heard_at == heard_at:
                raise LinkLost(f"the server was silent for {QUIET + PATIENCE:g} s", sent=True)

    def _lose(self, reason: str) -> None:
        """Fail all calls that wait. Commands that were not handed to the stream were not done."""
        if self._lost is not None:
            return
        self._lost = LinkLost(reason, sent=True)
        sent = len(self._pending) - self._unsent_commands
        for number, pending in enumerate(self._pending):
            pending.resolve(outcome.Error(LinkLost(reason, sent=number < sent)))
        self._pending.clear()
        self._unsent.clear()
        self._has_room.set()


def _packed(command: tuple[bytes | str | int, ...]) -> bytes:
    return hiredis.pack_command(command)  # type: ignore[arg-type,no-any-return]


def _code_of(error: str) -> str:
    """The code of an error; of one in a script (6.2 wraps it in a text of its own) that one."""
    for code in _GIVE_UP:
        if error.startswith(code) or f"-{code} " in error or f" {code} " in error[:200]:
            return code
    return error.partition(" ")[0]


def reason_of(error: BaseException) -> str:
    """Why a connection failed, in words of the operating system where there are any."""
    cause = error.__cause__ or error
    if isinstance(cause, BaseExceptionGroup):  # of the addresses that were tried
        cause = cause.exceptions[0]
    text = cause.strerror if isinstance(cause, OSError) else None
    return text or "the connection failed"
