"""What happens with a message: inline, in the message loop, or as a stream of its own.

Order of arrival is kept: while anything runs or waits in the loop, whatever arrives waits behind
it; only `ping`, `pong` and `cancel` do not. While there is no room for answers in the send queue,
nothing is begun: messages that have arrived wait in the loop, and no more are read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeAlias

import trio

from protocol import Id, Refusal, TooBigToSendError
from protocol.messages import Cancel, Message, Ping, Pong
from trioserver.app.connection import Connection
from trioserver.app.functions import Kind, call
from trioserver.app.handlers import Handler, call_inline
from trioserver.lifecycle.dispatch.answers import acknowledge, answer_error, refusal_for
from trioserver.lifecycle.dispatch.streams import Streams
from trioserver.lifecycle.dispatch.topics import TopicRequest, run_topics
from trioserver.lifecycle.dispatch.waiting import Parking, go_on
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.context import bind_connection, bind_request, context_for
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.websocket.headers import encode_text

_RECENT: Final = 16
"""Types of messages that are remembered of each connection."""

_GRAIN: Final = 1024
"""Bytes by which what is held must change before the connection's debt is told."""

_Job: TypeAlias = Message | TopicRequest | Ping


class Dispatcher:
    """The messages of one connection. `take` and `dispatch` take them, `start` when it is ready."""

    __slots__ = (
        "_busy", "_call_async", "_call_inline", "_connection", "_facade", "_handlers",
        "_held_bytes", "_idle", "_job", "_late", "_limits", "_paused", "_protocol", "_queue",
        "_queued_bytes", "_scope", "_send_queue", "_slow_inline", "_streams", "_timeouts", "_times",
        "_told_bytes", "_waiting", "_websocket", "run_in_context",
    )  # fmt: skip

    def __init__(self, connection: ServerConnection) -> None:
        context, tracing = connection.context, connection.tracing
        limits, handlers = context.config.limits, context.config.handlers
        self._connection = connection
        self._facade = connection.facade
        self._protocol = connection.protocol
        self._websocket = connection.websocket
        self._send_queue = connection.websocket.send_queue
        self._handlers = connection.route.handlers
        self._limits = limits
        self._timeouts = handlers
        self._queue: list[tuple[_Job, int]] = []  # with sizes; short, and mostly empty
        self._queued_bytes = 0  # of those
        self._held_bytes = 0  # of those, the job, and the requests of streams
        self._told_bytes = 0  # what the connection's debt knows of
        self._paused = False  # because of the queue
        self._late: bytes | None = None  # an answer for which there was no room
        self._times: RouteTimes = context.metrics.handling.of(connection.route)
        self._slow_inline = handlers.sync_handler_warn_after
        # Whether calls are traced is asked here, once, and not for each message.
        self._call_inline: Callable[..., Any] = call_inline
        self._call_async: Callable[..., Coroutine[Any, Any, Any]] = _call_async
        if tracing is not None:
            self._call_inline = partial(tracing.call_inline, call_inline)
            self._call_async = tracing.call_async
        self.run_in_context: Callable[..., Any] | None = None  # from `start` on: of the user
        self._busy = True  # until the hook has been called, everything waits
        self._idle: Parking | None = None  # of the loop, once that runs
        self._scope: trio.CancelScope  # around the job that the loop is at
        self._job: _Job | None = None
        self._waiting = True  # whether that job is; and until one can begin
        self._streams: Streams | None = None  # made with the first

    def start(self) -> None:
        """The connection is ready: its hook is called, then its messages are handled."""
        connection = self._connection
        self.run_in_context = context_for(connection.id, self._facade.user.id).run
        if self._queue or self._connection.route.ready_hook is not None:
            self._start_loop()
        else:
            self._busy = False

    @property
    def about_to_answer(self) -> bool:
        """Whether the loop goes on, with nothing to wait for, as soon as it has its turn."""
        return not self._waiting and bool(self._queue)

    # -------------------------------------------------------------------------- arriving

    def dispatch(self, message: Any, size: int) -> None:
        """Take a message of the session, of ``size`` bytes. Never waits, raises nothing that a peer
        can cause."""
        match message:
            case Message():
                self.handle(message, size)
            case Ping():
                if self._answer_ping(message) is not None:
                    self._enqueue(message, size)
            case Pong():
                self._websocket.take_pong(None)
            case Cancel():
                self._cancel(message.id)
            case _:
                self._recent().append(type(message).__name__.lower())
                if self._begin(message):
                    self._enqueue(message, size)

    def handle(self, message: Message, size: int) -> None:
        """Take a message for one of the application's handlers, in the connection's context."""
        handler = self._handlers.get(message.type)
        if handler is None:
            self._connection.refuse(Refusal("unknown_type"), message.id)
            return
        (self._connection.recent or self._recent()).append(message.type)
        send_queue = self._send_queue
        if (
            handler.kind is Kind.INLINE
            and not self._busy
            and (send_queue.queued_bytes <= send_queue.low_water_bytes or send_queue.make_room())
        ):
            self._run_inline(handler, message)
        elif handler.kind is Kind.STREAM and message.id is None:
            self._connection.refuse(Refusal("invalid_payload", "A stream needs an `id`."))
        elif self._begin(message):
            if handler.kind is Kind.STREAM and not self._busy:
                self._hold(size)
                self._all_streams().start(handler, message, partial(self._hold, -size))
            else:
                self._enqueue(message, size)

    def _answer_ping(self, ping: Ping) -> bytes | None:
        """Answer a ping; the frame comes back where there is no room for it yet."""
        frame = encode_text(self._protocol.pong(ping, self._connection.context.wall_clock()))
        try:
            return None if self._connection.transmit_if_room(frame) else frame
        except TooBigToSendError as refusal:
            self._connection.refuse(refusal, ping.id)
            return None

    def _cancel(self, id: Id) -> None:
        """End a stream, also one that still waits; an id that is no stream's is left be."""
        streams = self._all_streams()
        if not streams.cancel(id) and any(
            job.id == id and self._is_stream(job) for job, _ in self._queue
        ):
            streams.cancel_early(id)

    def _is_stream(self, job: _Job) -> bool:
        return isinstance(job, Message) and self._handlers[job.type].kind is Kind.STREAM

    def _all_streams(self) -> Streams:
        if self._streams is None:
            self._streams = Streams(self._connection, self._times)
        return self._streams

    def _recent(self) -> deque[str]:
        """The latest types, for who inspects the connection: only names that the route knows."""
        if self._connection.recent is None:
            self._connection.recent = deque(maxlen=_RECENT)
        return self._connection.recent

    def _begin(self, job: _Job) -> bool:
        """Count a request as in flight; False where that is one too many, which is answered."""
        try:
            self._protocol.begin(job.id)
        except Refusal as refusal:
            self._connection.refuse(refusal, job.id)
            return False
        return True

    def _enqueue(self, job: _Job, size: int) -> None:
        self._queue.append((job, size))
        self._queued_bytes += size
        self._hold(size)
        if not self._busy:
            self._occupy_loop()
        limits = self._limits
        if (
            len(self._queue) >= limits.max_queued_messages
            or self._queued_bytes >= limits.max_queued_bytes
        ):
            self._paused = True
            self._websocket.pause()

    def _occupy_loop(self) -> None:
        """Leave it to the loop; from now on, not from when it wakes up: nothing may overtake."""
        self._busy = True
        if self._idle is None:
            self._start_loop()
        else:
            self._idle.unpark()

    def _hold(self, size: int) -> None:
        """So many bytes more, or less, are held for messages."""
        self._held_bytes = held = self._held_bytes + size
        if not -_GRAIN < held - self._told_bytes < _GRAIN:
            self._told_bytes = held
            self._websocket.memory_account.set_queued(held)

    def _run_inline(self, handler: Handler, message: Message) -> None:
        began = perf_counter()
        try:
            result = self._call_inline(handler, self._facade, message)
            late = acknowledge(self._connection, message.id, result)
            if late is not None:
                self._put_off(late)
        except Exception as error:
            outcome = answer_error(self._connection, error, message.type, message.id)
            seconds = perf_counter() - began
            self._times[message.type].add(outcome, seconds)
        else:
            seconds = perf_counter() - began
            self._times[message.type].add_ok(seconds)
        if seconds > self._slow_inline:
            times = self._times[message.type]
            times.held_the_loop(self._connection.route.path, handler, seconds)

    def _put_off(self, answer: bytes) -> None:
        """Have the loop send an answer when there is room for it, and go on only then."""
        self._late = answer
        if not self._busy:
            self._occupy_loop()

    # -------------------------------------------------------------------------- the loop

    def _start_loop(self) -> None:
        self._idle = Parking()
        self._connection.start_soon(self._loop, self._idle)

    async def _loop(self, idle: Parking) -> None:
        """Call the hook, then work off the queue, one after the other, in order of arrival."""
        bind_connection(self._connection.id, self._facade.user.id)
        await self._call_ready_hook()
        self._waiting = False
        try:
            while self._protocol.close is None:  # what waits behind the end is for nobody
                with trio.CancelScope() as self._scope:
                    await self._work_off(idle)
                job, self._job = self._job, None
                if job is not None:
                    self._protocol.finish(job.id)
                    answer_error(self._connection, trio.TooSlowError(), _name(job), job.id)
        finally:
            self._waiting = True  # what is left in the queue is not worth waiting for any more
            self._queue.clear()
            self._hold(-self._queued_bytes)
            self._queued_bytes = 0

    async def _work_off(self, idle: Parking) -> None:
        """Answers leave together as long as no job has to wait for anything.

        Each job begins in a scope that nothing has cancelled. Most leave it so, and then the next
        one has it: a scope of its own for each would cost more than many a handler does. Where the
        time of a job has run out, and it has come to an end all the same (its thread could not be
        cancelled, say), this returns, and the next job gets another scope.
        """
        queue, send_queue = self._queue, self._send_queue
        while True:
            if not queue and self._late is None:
                self._websocket.answered()
                self._busy = False
                await idle.park()
            if self._late is not None or send_queue.queued_bytes > send_queue.low_water_bytes:
                await self._wait_for_room()
                if self._protocol.close is not None:
                    return
                continue
            job, size = queue.pop(0)
            self._job = job
            self._queued_bytes -= size
            if queue:
                send_queue.cork()
            if self._paused:
                self._resume_at_half()
            rest = self._begin_work(job, size)
            try:
                if rest is not None:
                    await rest
                    if self._scope.cancel_called:  # too late for this job, not for the next one
                        self._job = None
                        return
            finally:
                self._hold(-size)
            self._job = None

    async def _wait_for_room(self) -> None:
        """Wait until there is room for answers, that of the last job first."""
        late, self._late = self._late, None
        self._waiting = True
        try:
            if late is None:
                await self._connection.wait_room()
            else:
                await self._connection.put(late)
        finally:
            self._waiting = False

    def _resume_at_half(self) -> None:
        limits = self._limits
        if (
            len(self._queue) <= limits.max_queued_messages // 2
            and self._queued_bytes <= limits.max_queued_bytes // 2
        ):
            self._paused = False
            self._websocket.resume()

    async def _call_ready_hook(self) -> None:
        hook = self._connection.route.ready_hook
        if hook is None:
            return
        try:
            with trio.fail_after(self._timeouts.timeout):
                await call(hook, self._facade)
        except Exception as error:
            self._connection.fail(refusal_for(self._connection, error, "on_ready", None)[1])

    def _begin_work(self, job: _Job, size: int) -> Awaitable[None] | None:
        """Do a job as far as it goes without waiting, which mostly is all of it; else the rest."""
        bind_request(job.id)
        began = perf_counter()
        try:
            if isinstance(job, Ping):
                self._late = self._answer_ping(job)
                return None
            if not isinstance(job, Message):
                work = run_topics(self._connection, job, most=self._limits.max_subscriptions)
            else:
                handler = self._handlers[job.type]
                if handler.kind is Kind.LOOP:
                    work = self._call_async(handler, self._facade, job)
                elif handler.kind is Kind.STREAM:
                    self._hold(size)
                    self._all_streams().start(handler, job, partial(self._hold, -size))
                    return None
                else:
                    self._protocol.finish(job.id)
                    assert self.run_in_context is not None, "it has started"
                    self.run_in_context(self._run_inline, handler, job)
                    return None
        except Exception as error:
            self._has_failed(job, began, error)
            return None
        try:
            trap = work.send(None)
        except StopIteration as finished:
            self._has_finished(job, began, finished.value)
        except Exception as error:
            self._has_failed(job, began, error)
        else:
            return self._wait_for(work, trap, job, began)
        return None

    async def _wait_for(
        self, work: Coroutine[Any, Any, Any], trap: Any, job: _Job, began: float
    ) -> None:
        """Only from here on is its time limited; and what is ready to leave leaves."""
        self._waiting = True
        self._websocket.send_queue.uncork()
        self._scope.deadline = trio.current_time() + self._timeouts.timeout
        try:
            result = await go_on(work, trap)
        except Exception as error:
            self._has_failed(job, began, error)
        except BaseException:
            outcome = Outcome.TIMEOUT if self._scope.cancel_called else Outcome.CANCELLED
            self._times[_name(job)].add(outcome, perf_counter() - began)
            raise
        else:
            self._has_finished(job, began, result)
        finally:
            self._waiting = False
            self._scope.deadline = math.inf

    def _has_finished(self, job: _Job, began: float, result: Any) -> None:
        try:
            self._protocol.finish(job.id)
            self._late = acknowledge(self._connection, job.id, result)
        except Exception as error:
            self._has_failed(job, began, error)
        else:
            name = job.type if type(job) is Message else _name(job)
            self._times[name].add_ok(perf_counter() - began)

    def _has_failed(self, job: _Job, began: float, error: Exception) -> None:
        self._protocol.finish(job.id)
        outcome = answer_error(self._connection, error, _name(job), job.id)
        self._times[_name(job)].add(outcome, perf_counter() - began)


def _call_async(
    handler: Handler, connection: Connection, message: Message
) -> Coroutine[Any, Any, Any]:
    work: Coroutine[Any, Any, Any] = handler.function(connection, *handler.arguments(message))
    return work


def _name(job: _Job) -> str:
    """The type of a message that there is a handler for, or of one of the protocol's own."""
    return job.type if isinstance(job, Message) else type(job).__name__.lower()
