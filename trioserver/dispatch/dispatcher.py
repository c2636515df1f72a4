"""What happens with a message: inline, in the message loop, or as a stream of its own.

Order of arrival is kept: while anything runs or waits in the loop, whatever arrives waits behind
it; only `ping`, `pong` and `cancel` do not.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from time import perf_counter
from typing import Any, Final, TypeAlias

import trio

from protocol import Id, Refusal
from protocol.messages import Cancel, Message, Ping, Pong
from trioserver.config import HandlerConfig, LimitsConfig
from trioserver.connection import Connection
from trioserver.dispatch.answers import acknowledge, judge, refuse_for
from trioserver.dispatch.streams import Streams
from trioserver.dispatch.topics import TopicRequest, run_topics
from trioserver.dispatch.waiting import Parking, go_on
from trioserver.handlers import Handler, Kind, call, call_inline
from trioserver.telemetry.handling_times import Outcome, RouteTimes
from trioserver.telemetry.log_context import bind_connection, bind_request, context_for

_RECENT: Final = 16
"""Types of messages that are remembered of each connection."""

_Job: TypeAlias = Message | TopicRequest


class Dispatcher:
    """The messages of one connection. `take` and `dispatch` take them, `start` when it is ready."""

    __slots__ = (
        "_busy", "_call_inline", "_connection", "_handlers", "_idle", "_job", "_limits", "_queue",
        "_scope", "_session", "_slow_inline", "_streams", "_timeouts", "_times", "_tracing",
        "_waiting", "_websocket", "run_in_context",
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
        self._streams: Streams | None = None  # made with the first

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
                self._all_streams().start(handler, message)
            else:
                self._enqueue(message)

    def _cancel(self, id: Id) -> None:
        """End a stream, also one that still waits; an id that is no stream's is left be."""
        streams = self._all_streams()
        if not streams.cancel(id) and any(
            job.id == id and self._is_stream(job) for job in self._queue
        ):
            streams.cancel_early(id)

    def _is_stream(self, job: _Job) -> bool:
        return isinstance(job, Message) and self._handlers[job.type].kind is Kind.STREAM

    def _all_streams(self) -> Streams:
        if self._streams is None:
            self._streams = Streams(
                self._connection, limits=self._limits, handlers=self._timeouts, times=self._times
            )
        return self._streams

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
            acknowledge(self._connection, message.id, result)
        except Exception as error:
            outcome = refuse_for(self._connection, error, message.type, message.id)
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
        if self._session.close is not None:
            return  # what waits behind the hook is for nobody
        self._waiting = False
        try:
            while True:
                with trio.CancelScope() as self._scope:
                    await self._work_off(idle)
                job, self._job = self._job, None
                if job is not None:
                    self._session.finish(job.id)
                    refuse_for(self._connection, trio.TooSlowError(), _name(job), job.id)
        finally:
            self._waiting = True  # what is left in the queue is not worth waiting for any more

    async def _work_off(self, idle: Parking) -> None:
        """Answers leave together as long as no job has to wait for anything.

        Each job begins in a scope that nothing has cancelled. Most leave it so, and then the next
        one has it: a scope of its own for each would cost more than many a handler does. Where the
        time of a job has run out, and it has come to an end all the same (its thread could not be
        cancelled, say), this returns, and the next job gets another scope.
        """
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
                if self._scope.cancel_called:  # too late for this job, and not for the next one
                    self._job = None
                    return
            self._job = None

    async def _call_ready_hook(self) -> None:
        hook = self._connection.route.ready_hook
        if hook is None:
            return
        try:
            with trio.fail_after(self._timeouts.timeout):
                await call(hook, self._connection)
        except Exception as error:
            self._connection._fail(judge(self._connection, error, "on_ready", None)[1])

    def _begin_work(self, job: _Job) -> Awaitable[None] | None:
        """Do a job as far as it goes without waiting, which mostly is all of it; else the rest."""
        bind_request(job.id)
        began = perf_counter()
        try:
            if not isinstance(job, Message):
                work = run_topics(self._connection, job, most=self._limits.subscriptions)
            else:
                handler = self._handlers[job.type]
                if handler.kind is Kind.LOOP:
                    work = self._call(handler, job)
                elif handler.kind is Kind.STREAM:
                    self._all_streams().start(handler, job)
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
            acknowledge(self._connection, job.id, result)
        except Exception as error:
            self._has_failed(job, began, error)
        else:
            name = job.type if type(job) is Message else _name(job)
            self._times[name].add_ok(perf_counter() - began)

    def _has_failed(self, job: _Job, began: float, error: Exception) -> None:
        self._session.finish(job.id)
        outcome = refuse_for(self._connection, error, _name(job), job.id)
        self._times[_name(job)].add(outcome, perf_counter() - began)

    def _call(self, handler: Handler, message: Message) -> Coroutine[Any, Any, Any]:
        if self._tracing is not None:
            return self._tracing.call_async(handler, self._connection, message)
        work: Coroutine[Any, Any, Any] = handler.function(
            self._connection, *handler.arguments(message)
        )
        return work


def _name(job: _Job) -> str:
    """The type of a message that there is a handler for, or of one of the protocol's own."""
    return job.type if isinstance(job, Message) else type(job).__name__.lower()
