"""What happens with a message: inline, in the message loop, or as a stream of its own.

Order of arrival is kept: while anything runs or waits in the loop, whatever arrives waits behind
it; only `ping`, `pong` and `cancel` do not.
"""

from __future__ import annotations

import math
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import aclosing
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeAlias

import trio

from protocol import Id, Refusal
from protocol.codec import encode
from protocol.messages import (
    Ack,
    Cancel,
    Chunk,
    End,
    Message,
    Ping,
    Pong,
    Publish,
    Subscribe,
    Unsubscribe,
)
from trioserver.config import HandlerConfig, LimitsConfig
from trioserver.connection import Connection
from trioserver.handlers import Handler, Kind, call, call_inline, unwrap
from trioserver.storage import DatabaseUnavailable
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.telemetry.log_context import bind_connection, bind_request, context_for
from trioserver.waiting import Parking, go_on
from trioserver.websocket.frames import encode_text

_RECENT: Final = 16
"""Types of messages that are remembered of each connection."""

_Job: TypeAlias = "Message | Subscribe | Unsubscribe | Publish"


class Dispatcher:
    """The messages of one connection. `take` and `dispatch` take them, `start` when it is ready."""

    __slots__ = (
        "_busy", "_call_inline", "_cancelled_early", "_connection", "_handlers", "_idle", "_job",
        "_limits", "_queue", "_running_streams", "_scope", "_session", "_slow_inline", "_streams",
        "_timeouts", "_times", "_tracing", "_waiting", "_websocket", "run_in_context",
    )  # fmt: skip

    def __init__(
        self,
        connection: Connection,
        *,
        limits: LimitsConfig,
        handlers: HandlerConfig,
        times: RouteTimes,
    ) -> None:
        self._connection = connection
        self._session = connection._session
        self._websocket = connection._websocket
        self._handlers = connection.route.handlers
        self._limits = limits
        self._timeouts = handlers
        self._queue: list[_Job] = []  # short, and mostly empty
        self._times = times
        self._slow_inline = handlers.slow_inline
        self._tracing = tracing = connection._tracing
        self._call_inline: Callable[..., Any] = (
            call_inline if tracing is None else partial(tracing.call_inline, call_inline)
        )
        self.run_in_context: Callable[..., Any] | None = None  # from `start` on: of the user
        self._busy = True  # until the hook has been called, everything waits
        self._idle: Parking | None = None  # of the loop, once that runs
        self._scope: trio.CancelScope  # around the job that the loop is at
        self._job: _Job | None = None
        self._waiting = True  # whether that job is; and until one can begin
        self._streams: dict[Id, trio.CancelScope] = {}
        self._running_streams = 0
        self._cancelled_early: set[Id] = set()

    def start(self) -> None:
        """The connection is ready: its hook is called, then its messages are handled."""
        connection = self._connection
        self.run_in_context = context_for(connection.id, connection.user.id).run
        if self._queue or self._connection.route.ready_hook is not None:
            self._start_loop()
        else:
            self._busy = False

    @property
    def about_to_answer(self) -> bool:
        """Whether the loop goes on, with nothing to wait for, as soon as it has its turn."""
        return not self._waiting and bool(self._queue)

    # -------------------------------------------------------------------------- arriving

    def dispatch(self, message: Any) -> None:
        """Take a message of the session. Never waits, raises nothing that a peer can cause."""
        match message:
            case Message():
                self.take(message)
            case Ping():
                self._session.pong(message, self._connection._wall_clock())
                self._connection._flush()
            case Pong():
                self._websocket.take_pong(None)
            case Cancel():
                self._cancel(message.id)
            case _:
                self._recent().append(type(message).__name__.lower())
                if self._begin(message):
                    self._enqueue(message)

    def take(self, message: Message) -> None:
        """Take a message for one of the application's handlers, in the connection's context."""
        handler = self._handlers.get(message.type)
        if handler is None:
            self._connection._refuse(Refusal("unknown_type"), message.id)
            return
        (self._connection._recent or self._recent()).append(message.type)
        if handler.kind is Kind.INLINE and not self._busy:
            self._run_inline(handler, message)
        elif handler.kind is Kind.STREAM and message.id is None:
            self._connection._refuse(Refusal("invalid_payload", "A stream needs an `id`."))
        elif self._begin(message):
            if handler.kind is Kind.STREAM and not self._busy:
                self._start_stream(handler, message)
            else:
                self._enqueue(message)

    def _recent(self) -> deque[str]:
        """The latest types, for who inspects the connection: only names that the route knows."""
        if self._connection._recent is None:
            self._connection._recent = deque(maxlen=_RECENT)
        return self._connection._recent

    def _begin(self, job: _Job) -> bool:
        """Count a request as in flight; False where that is one too many, which is answered."""
        try:
            self._session.begin(job.id)
        except Refusal as refusal:
            self._connection._refuse(refusal, job.id)
            return False
        return True

    def _enqueue(self, job: _Job) -> None:
        self._queue.append(job)
        if not self._busy:
            self._busy = True  # from now on, not from when the loop wakes up: nothing may overtake
            if self._idle is None:
                self._start_loop()
            else:
                self._idle.unpark()
        if len(self._queue) >= self._limits.queue:
            self._websocket.pause()

    def _run_inline(self, handler: Handler, message: Message) -> None:
        began = perf_counter()
        try:
            result = self._call_inline(handler, self._connection, message)
            self._acknowledge(message.id, result)
        except Exception as error:
            outcome = self._refuse_for(error, message)
            seconds = perf_counter() - began
            self._times[message.type].add(outcome, seconds)
        else:
            seconds = perf_counter() - began
            self._times[message.type].add_ok(seconds)
        if seconds > self._slow_inline:
            times = self._times[message.type]
            times.held_the_loop(self._connection.route.path, handler, seconds)

    # -------------------------------------------------------------------------- the loop

    def _start_loop(self) -> None:
        self._idle = Parking()
        self._connection.start_soon(self._loop, self._idle)

    async def _loop(self, idle: Parking) -> None:
        """Call the hook, then work off the queue, one after the other, in order of arrival."""
        bind_connection(self._connection.id, self._connection.user.id)
        await self._call_ready_hook()
        self._waiting = False
        try:
            while True:
                with trio.CancelScope() as self._scope:
                    await self._work_off(idle)
                job, self._job = self._job, None
                if job is not None:
                    self._session.finish(job.id)
                    self._refuse_for(trio.TooSlowError(), job)
        finally:
            self._waiting = True  # what is left in the queue is not worth waiting for any more

    async def _work_off(self, idle: Parking) -> None:
        """Answers leave together as long as no job has to wait for anything."""
        queue, outbox, half = self._queue, self._websocket.outbox, self._limits.queue // 2
        while True:
            if not queue:
                self._websocket.answered()
                self._busy = False
                await idle.park()
            self._job = job = queue.pop(0)
            if queue:
                outbox.cork()
            if len(queue) == half:
                self._websocket.resume()
            rest = self._begin_work(job)
            if rest is not None:
                await rest
            self._job = None

    async def _call_ready_hook(self) -> None:
        hook = self._connection.route.ready_hook
        if hook is None:
            return
        try:
            with trio.fail_after(self._timeouts.timeout):
                await call(hook, self._connection)
        except Exception as error:
            self._connection._fail(self._judge(error, "on_ready", None)[1])

    def _begin_work(self, job: _Job) -> Awaitable[None] | None:
        """Do a job as far as it goes without waiting, which mostly is all of it; else the rest."""
        bind_request(job.id)
        began = perf_counter()
        try:
            if not isinstance(job, Message):
                work = self._run_topics(job)
            else:
                handler = self._handlers[job.type]
                if handler.kind is Kind.LOOP:
                    work = self._call(handler, job)
                elif handler.kind is Kind.STREAM:
                    self._start_stream(handler, job)
                    return None
                else:
                    self._session.finish(job.id)
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
        self._websocket.outbox.uncork()
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
            self._session.finish(job.id)
            self._acknowledge(job.id, result)
        except Exception as error:
            self._has_failed(job, began, error)
        else:
            name = job.type if type(job) is Message else _name(job)
            self._times[name].add_ok(perf_counter() - began)

    def _has_failed(self, job: _Job, began: float, error: Exception) -> None:
        self._session.finish(job.id)
        outcome = self._refuse_for(error, job)
        self._times[_name(job)].add(outcome, perf_counter() - began)

    def _call(self, handler: Handler, message: Message) -> Coroutine[Any, Any, Any]:
        if self._tracing is not None:
            return self._tracing.call_async(handler, self._connection, message)
        work: Coroutine[Any, Any, Any] = handler.function(
            self._connection, *handler.arguments(message)
        )
        return work

    async def _run_topics(self, job: Any) -> Any:
        connection, route = self._connection, self._connection.route
        match job:
            case Publish():
                if not await call(route.may_publish, connection, job.topic):
                    raise Refusal("forbidden", "Publishing to this topic is not allowed.")
                return {"offset": connection.publish(job.topic, job.data)}
            case Subscribe():
                topics = _topics(job)
                for topic in topics:
                    if not await call(route.may_subscribe, connection, topic):
                        raise Refusal("forbidden", "Subscribing to this topic is not allowed.")
                self._check_room_for(topics)
                for topic in topics:
                    connection.subscribe(topic)
            case Unsubscribe():
                for topic in _topics(job):
                    connection.unsubscribe(topic)
        return None

    def _check_room_for(self, topics: tuple[str, ...]) -> None:
        """All of the topics or none: half a subscription would be told by no answer."""
        if len(self._connection.topics.union(topics)) > self._limits.subscriptions:
            raise Refusal("too_many_in_flight", "Too many subscriptions.")

    # -------------------------------------------------------------------------- streams

    def _start_stream(self, handler: Handler, message: Message) -> None:
        id, connection = message.id, self._connection
        assert id is not None
        if id in self._cancelled_early:
            self._end_stream(id, End(id=id, cancelled=True))
        elif self._running_streams >= self._limits.streams:
            self._session.finish(id)
            connection._refuse(Refusal("too_many_in_flight", "Too many streams."), id)
        else:
            self._streams[id] = trio.CancelScope()
            self._running_streams += 1
            connection.start_soon(self._stream, handler, message, id)

    async def _stream(self, handler: Handler, message: Message, id: Id) -> None:
        bind_connection(self._connection.id, self._connection.user.id)
        bind_request(id)
        began, outcome = perf_counter(), Outcome.CANCELLED
        scope = self._streams[id]
        try:
            with scope:
                await self._send_chunks(handler, message, id)
                outcome = Outcome.OK
            self._end_stream(id, End(id=id, cancelled=scope.cancelled_caught))
        except Exception as error:
            self._session.finish(id)
            outcome = self._refuse_for(error, message)
        finally:
            self._times[handler.type].add(outcome, perf_counter() - began)
            del self._streams[id]
            self._running_streams -= 1

    async def _send_chunks(self, handler: Handler, message: Message, id: Id) -> None:
        if self._tracing is None:
            await self._send_values(handler, message, id)
        else:
            with self._tracing.handle(handler, message):
                await self._send_values(handler, message, id)

    async def _send_values(self, handler: Handler, message: Message, id: Id) -> None:
        values = handler.function(self._connection, *handler.arguments(message))
        seq = 0
        async with aclosing(values):
            while True:
                await self._connection._wait_for_room()
                try:
                    with trio.fail_after(self._timeouts.chunk_timeout):
                        value = await anext(values)
                except StopAsyncIteration:
                    return
                if self._session.close is not None:
                    return
                self._connection._transmit(encode(Chunk(id=id, seq=seq, data=value)))
                seq += 1

    def _end_stream(self, id: Id, end: End) -> None:
        self._cancelled_early.discard(id)
        self._session.finish(id)
        if self._session.close is None:
            self._connection._transmit(encode(end))

    def _cancel(self, id: Id) -> None:
        """End a stream, also one that still waits; an id that is no stream's is left be."""
        if id in self._streams:
            self._streams[id].cancel()
        elif any(job.id == id and self._is_stream(job) for job in self._queue):
            self._cancelled_early.add(id)

    def _is_stream(self, job: _Job) -> bool:
        handlers = self._connection.route.handlers
        return isinstance(job, Message) and handlers[job.type].kind is Kind.STREAM

    # -------------------------------------------------------------------------- answering

    def _acknowledge(self, id: Id | None, result: Any) -> None:
        if id is not None and self._session.close is None:
            ack = Ack(id=id) if result is None else Ack(id=id, data=result)
            self._connection._transmit_frame(encode_text(encode(ack)))

    def _refuse_for(self, error: Exception, job: _Job) -> Outcome:
        outcome, refusal = self._judge(error, _name(job), job.id)
        self._connection._refuse(refusal, job.id)
        return outcome

    def _judge(self, error: Exception, name: str, id: Id | None) -> tuple[Outcome, Refusal]:
        """What the peer is told; what it is not told goes to the log."""
        error = unwrap(error)
        if isinstance(error, Refusal):
            return Outcome.REFUSED, error
        log = self._connection.log if id is None else self._connection.log.bind(request_id=id)
        if isinstance(error, DatabaseUnavailable):
            log.warning("handler_without_database", handler=name, category=error.category)
            return Outcome.FAILED, Refusal("unavailable")
        if isinstance(error, trio.TooSlowError):
            log.warning("handler_too_slow", handler=name)
            return Outcome.TIMEOUT, Refusal("unavailable", "This took too long; try again later.")
        text = "".join(traceback.format_exception(error))
        log.error("handler_failed", handler=name, traceback=text)
        return Outcome.FAILED, Refusal("internal_error")


def _name(job: _Job) -> str:
    """The type of a message that there is a handler for, or of one of the protocol's own."""
    return job.type if isinstance(job, Message) else type(job).__name__.lower()


def _topics(job: Subscribe | Unsubscribe) -> tuple[str, ...]:
    topics = job.topics or job.events
    if not topics:
        raise Refusal("invalid_payload", "`topics` is missing.")
    return topics
