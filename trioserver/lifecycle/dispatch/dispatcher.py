"""Dispatches messages to their handlers: inline, in the message loop, or as a stream.

Messages are handled in order of arrival: while the loop is busy, or has a message waiting, later
messages are queued behind it. Only `ping`, `pong` and `cancel` are handled at once. While the send
queue has no room for answers, no handler is called: messages that have arrived wait in the loop,
and no more are read.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any, Final

import trio

from protocol import Id, Refusal, TooBigToSendError
from protocol.messages import Cancel, Message, Ping, Pong
from trioserver.app.connection import Connection
from trioserver.app.functions import Kind, call
from trioserver.app.handlers import Handler, call_inline
from trioserver.lifecycle.dispatch.answers import acknowledge, answer_error, refusal_for
from trioserver.lifecycle.dispatch.message_queue import Job, MessageQueue
from trioserver.lifecycle.dispatch.streams import Streams
from trioserver.lifecycle.dispatch.topics import run_topics
from trioserver.lifecycle.dispatch.waiting import Parking, resume
from trioserver.lifecycle.server_connection import ServerConnection
from trioserver.logs.context import bind_connection, bind_request, context_for
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.websocket.headers import encode_text

_RECENT: Final = 16
"""The number of message types that are remembered of each connection, for its report."""


class Dispatcher:
    """Dispatches the messages of one connection.

    `handle` and `dispatch` accept messages at any time; they are queued until `start`.
    """

    __slots__ = (
        "_busy",
        "_call_async",
        "_call_inline",
        "_connection",
        "_facade",
        "_handlers",
        "_idle",
        "_job",
        "_late",
        "_protocol",
        "_queue",
        "_scope",
        "_send_queue",
        "_streams",
        "_timeout",
        "_times",
        "_waiting",
        "_warn_after",
        "_websocket",
        "run_in_context",
    )  # fmt: skip

    def __init__(self, connection: ServerConnection) -> None:
        context, tracing = connection.context, connection.tracing
        handlers = context.config.handlers
        self._connection = connection
        self._facade = connection.facade
        self._protocol = connection.protocol
        self._websocket = connection.websocket
        self._send_queue = connection.websocket.send_queue
        self._handlers = connection.route.handlers
        self._timeout = handlers.timeout
        self._queue = MessageQueue(connection.websocket, context.config.limits)
        self._late: bytes | None = None  # an answer for which there was no room
        self._times: RouteTimes = context.metrics.handling.of(connection.route)
        self._warn_after = handlers.sync_handler_warn_after
        # Whether calls are traced is asked here, once, and not for each message.
        self._call_inline: Callable[..., Any] = call_inline
        self._call_async: Callable[..., Coroutine[Any, Any, Any]] = _call_async
        if tracing is not None:
            self._call_inline = partial(tracing.call_inline, call_inline)
            self._call_async = tracing.call_async
        self.run_in_context: Callable[..., Any] | None = None  # set by `start`
        self._busy = True  # until `on_ready` has been called, every message is queued
        self._idle: Parking | None = None  # where the loop waits, once it runs
        self._scope: trio.CancelScope  # around the current job of the loop
        self._job: Job | None = None
        self._waiting = True  # whether the current job waits, or none can begin yet
        self._streams: Streams | None = None  # made with the first

    def start(self) -> None:
        """Call ``on_ready``, then handle messages: the connection is ready."""
        connection = self._connection
        self.run_in_context = context_for(connection.id, self._facade.user.id).run
        if self._queue.jobs or self._connection.route.ready_hook is not None:
            self._start_loop()
        else:
            self._busy = False

    @property
    def about_to_answer(self) -> bool:
        """Whether the loop will handle a message, without waiting, when it is scheduled next."""
        return not self._waiting and bool(self._queue.jobs)

    # -------------------------------------------------------------------------- arriving

    def dispatch(self, message: Any, size: int) -> None:
        """Handle any message that the protocol has decoded, of ``size`` bytes.

        Never waits. Raises nothing that a client can cause.
        """
        match message:
            case Message():
                self.handle(message, size)
            case Ping():
                if self._answer_ping(message) is not None:
                    self._enqueue(message, size)
            case Pong():
                self._websocket.pings.receive_pong(None, trio.current_time())
            case Cancel():
                self._cancel(message.id)
            case _:
                self._recent().append(type(message).__name__.lower())
                if self._begin(message):
                    self._enqueue(message, size)

    def handle(self, message: Message, size: int) -> None:
        """Handle a message for the application. Call this in the connection's logging context."""
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
                self._queue.hold(size)
                self._all_streams().start(handler, message, partial(self._queue.hold, -size))
            else:
                self._enqueue(message, size)

    def _answer_ping(self, ping: Ping) -> bytes | None:
        """Answer a ping. Return the frame if the send queue has no room for it yet."""
        frame = encode_text(self._protocol.pong(ping, self._connection.context.wall_clock()))
        try:
            return None if self._connection.transmit_if_room(frame) else frame
        except TooBigToSendError as refusal:
            self._connection.refuse(refusal, ping.id)
            return None

    def _cancel(self, id: Id) -> None:
        """Cancel a stream, also one that is still queued. Other ids are ignored."""
        streams = self._all_streams()
        if not streams.cancel(id) and any(
            job.id == id and self._is_stream(job) for job, _ in self._queue.jobs
        ):
            streams.cancel_early(id)

    def _is_stream(self, job: Job) -> bool:
        return isinstance(job, Message) and self._handlers[job.type].kind is Kind.STREAM

    def _all_streams(self) -> Streams:
        if self._streams is None:
            self._streams = Streams(self._connection, self._times)
        return self._streams

    def _recent(self) -> deque[str]:
        """Return the list of latest message types. It contains only names that the route knows."""
        if self._connection.recent is None:
            self._connection.recent = deque(maxlen=_RECENT)
        return self._connection.recent

    def _begin(self, job: Job) -> bool:
        """Count a request as in flight. If there are too many, refuse it and return False."""
        try:
            self._protocol.begin(job.id)
        except Refusal as refusal:
            self._connection.refuse(refusal, job.id)
            return False
        return True

    def _enqueue(self, job: Job, size: int) -> None:
        self._queue.put(job, size)
        if not self._busy:
            self._occupy_loop()

    def _occupy_loop(self) -> None:
        """Wake the loop. It counts as busy from now on, so that no later message overtakes."""
        self._busy = True
        if self._idle is None:
            self._start_loop()
        else:
            self._idle.unpark()

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
        if seconds > self._warn_after:
            times = self._times[message.type]
            times.held_the_loop(self._connection.route.path, handler, seconds)

    def _put_off(self, answer: bytes) -> None:
        """Leave an answer to the loop, which sends it when there is room and then continues."""
        self._late = answer
        if not self._busy:
            self._occupy_loop()

    # -------------------------------------------------------------------------- the loop

    def _start_loop(self) -> None:
        self._idle = Parking()
        self._connection.start_soon(self._loop, self._idle)

    async def _loop(self, idle: Parking) -> None:
        """Call ``on_ready``, then handle the queued messages one after the other, until the end."""
        bind_connection(self._connection.id, self._facade.user.id)
        await self._call_ready_hook()
        self._waiting = False
        try:
            while self._protocol.close is None:  # what is queued then has no recipient
                with trio.CancelScope() as self._scope:
                    await self._work_off(idle)
                job, self._job = self._job, None
                if job is not None:
                    self._protocol.finish(job.id)
                    answer_error(self._connection, trio.TooSlowError(), _name(job), job.id)
        finally:
            self._waiting = True  # what is left in the queue is not handled
            self._queue.clear()

    async def _work_off(self, idle: Parking) -> None:
        """Handle queued messages. The answers are sent together as long as no job has to wait.

        All jobs share one cancel scope, because a scope for each would cost more than many handlers
        do. When a job's deadline has cancelled the scope but the job has finished all the same, for
        example because its thread cannot be cancelled, this returns and the next job gets a new
        scope.
        """
        queue, send_queue = self._queue, self._send_queue
        while True:
            if not queue.jobs and self._late is None:
                self._websocket.flush_answers()
                self._busy = False
                await idle.park()
            if self._late is not None or send_queue.queued_bytes > send_queue.low_water_bytes:
                await self._wait_for_room()
                if self._protocol.close is not None:
                    return
                continue
            job, size = queue.get()
            self._job = job
            if queue.jobs:
                send_queue.cork()
            rest = self._begin_work(job, size)
            try:
                if rest is not None:
                    await rest
                    if self._scope.cancel_called:  # too late: the next job needs a new scope
                        self._job = None
                        return
            finally:
                queue.hold(-size)
            self._job = None

    async def _wait_for_room(self) -> None:
        """Wait until the send queue has room, and send the answer that is left over, if any."""
        late, self._late = self._late, None
        self._waiting = True
        try:
            if late is None:
                await self._connection.wait_room()
            else:
                await self._connection.put(late)
        finally:
            self._waiting = False

    async def _call_ready_hook(self) -> None:
        hook = self._connection.route.ready_hook
        if hook is None:
            return
        try:
            with trio.fail_after(self._timeout):
                await call(hook, self._facade)
        except Exception as error:
            self._connection.fail(refusal_for(self._connection, error, "on_ready", None)[1])

    def _begin_work(self, job: Job, size: int) -> Awaitable[None] | None:
        """Run a job until it first waits. Return the rest of it, or None if it has finished."""
        bind_request(job.id)
        began = perf_counter()
        try:
            if isinstance(job, Ping):
                self._late = self._answer_ping(job)
                return None
            if not isinstance(job, Message):
                work = run_topics(self._connection, job)
            else:
                handler = self._handlers[job.type]
                if handler.kind is Kind.LOOP:
                    work = self._call_async(handler, self._facade, job)
                elif handler.kind is Kind.STREAM:
                    self._queue.hold(size)
                    self._all_streams().start(handler, job, partial(self._queue.hold, -size))
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
        self, work: Coroutine[Any, Any, Any], trap: Any, job: Job, began: float
    ) -> None:
        """Run the rest of a job, with a deadline. What is queued for sending is sent now."""
        self._waiting = True
        self._send_queue.uncork()
        self._scope.deadline = trio.current_time() + self._timeout
        try:
            result = await resume(work, trap)
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

    def _has_finished(self, job: Job, began: float, result: Any) -> None:
        try:
            self._protocol.finish(job.id)
            self._late = acknowledge(self._connection, job.id, result)
        except Exception as error:
            self._has_failed(job, began, error)
        else:
            name = job.type if type(job) is Message else _name(job)
            self._times[name].add_ok(perf_counter() - began)

    def _has_failed(self, job: Job, began: float, error: Exception) -> None:
        self._protocol.finish(job.id)
        outcome = answer_error(self._connection, error, _name(job), job.id)
        self._times[_name(job)].add(outcome, perf_counter() - began)


def _call_async(
    handler: Handler, connection: Connection, message: Message
) -> Coroutine[Any, Any, Any]:
    work: Coroutine[Any, Any, Any] = handler.function(connection, *handler.arguments(message))
    return work


def _name(job: Job) -> str:
    """Return the type of the message: the application's, or one of the protocol."""
    return job.type if isinstance(job, Message) else type(job).__name__.lower()
