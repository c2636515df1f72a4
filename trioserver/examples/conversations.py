"""Chat with streamed replies and streamed tool calls: ``/ws/conversations/{conversation_id}``.

Whose a conversation is, is looked up in the database; one that is not there and one that is
somebody else's get the same answer. ``message`` is stored, then acknowledged; ``ask`` is answered
as a stream, which the client can cancel; ``history`` gives what was said before.

The owner may ``share`` a conversation, and ``unshare`` it. Whoever is in it hears what the others
say as ``said``, ``present`` tells who that is, and a topic who comes and goes. Whoever is not there
finds ``shared`` and ``unread`` messages after the next `ready`, once: of each conversation at most
one of each, so that nobody can push out what others have sent.

Run it: ``trioserver demo``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Annotated, Any, Final

import attrs
import msgspec
import trio

from trioserver import Application, Connection, Database, Mailbox, Presence, Refusal, Server
from trioserver.auth import Authenticator, SQLAuthorizer
from trioserver.examples.conversation_store import Page, Store, answered, words_of

PATH: Final = "/ws/conversations/{conversation_id}"

DENIED: Final = "Conversation not found or access denied"

GRACE: Final = 1.0  # seconds; who reloads a page has not left

WORD_PAUSE: Final = 0.02  # seconds; a language model does not say everything at once either
SAVE_TIMEOUT: Final = 2.0  # seconds; for what was said of an answer that was cut short

Text = Annotated[str, msgspec.Meta(min_length=1, max_length=10_000)]


class Said(msgspec.Struct):
    """The payload of ``message`` and ``ask``."""

    text: Text


class Whom(msgspec.Struct):
    """The payload of ``share`` and ``unshare``."""

    user: Annotated[str, msgspec.Meta(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f\x7f]*$")]


def make(
    database_url: str,
    *,
    auth: Authenticator,
    seed: Mapping[str, list[str]] | None = None,
    is_user: Callable[[str], Awaitable[bool]] | None = None,
) -> Application:
    """The application. ``seed``: conversations to have, by the user they belong to.

    ``is_user`` says whether there is a user with this id, with whom a conversation can be shared;
    None is whoever has a conversation.
    """
    database = Database(database_url)
    store = Store(database)

    @asynccontextmanager
    async def lifespan(application: Application, server: Server) -> AsyncIterator[None]:
        async with database:
            await store.create(seed or {})
            application.state["store"] = store
            application.state["server"] = server
            application.state["is_user"] = is_user or store.knows
            yield

    mailbox = Mailbox(database, namespace="conversations")
    application = Application(auth=auth, lifespan=lifespan, mailbox=mailbox)
    application.add_health_check("database", database.check_health)
    may_join = SQLAuthorizer(
        database,
        table="members",
        id_column="conversation_id",
        owner_column="user_id",
        denied=DENIED,
    )
    route = application.route(
        PATH,
        authorize=may_join,
        auth_aliases=["initial"],
        presence=Presence(grace=GRACE),
        mailbox=True,
    )
    for handler in (message, ask, history, share, unshare, present):
        route.on(handler.__name__)(handler)
    route.allow_subscribe(may_subscribe)
    return application


async def message(connection: Connection, said: Said) -> dict[str, int]:
    """Store a message of the user, then acknowledge it."""
    return {"message_id": await _say(connection, "user", said.text)}


async def history(connection: Connection, page: Page | None) -> dict[str, Any]:
    """Return earlier messages, oldest first."""
    said = await _store(connection).page(_conversation(connection), page or Page())
    return {"messages": said}


async def ask(connection: Connection, said: Said) -> AsyncIterator[dict[str, Any]]:
    """Stream an answer: a tool call, its result, then text, word by word."""
    store, conversation = _store(connection), _conversation(connection)
    words = words_of(said.text)
    yield {"kind": "tool_call", "name": "search_history", "arguments": {"words": sorted(words)}}
    found = await store.search(conversation, words)
    yield {"kind": "tool_result", "name": "search_history", "result": found}
    await _say(connection, "user", said.text)
    spoken = ""
    try:
        for word in _answer(said.text, found).split(" "):
            await trio.sleep(WORD_PAUSE)
            spoken += word + " "
            yield {"kind": "text", "text": word + " "}
    finally:
        # Also when the client cancels or leaves: what was said has been said.
        with trio.move_on_after(SAVE_TIMEOUT, shield=True):
            if spoken:
                await _say(connection, "assistant", spoken.strip())


async def share(connection: Connection, whom: Whom) -> None:
    """Add a member, and notify them now or when they connect."""
    store, conversation, me = _store(connection), _conversation(connection), connection.user.id
    await store.check_owner(conversation, me)
    if not await answered(connection.application.state["is_user"](whom.user)):
        raise Refusal("not_found", "There is no such user.")
    if await store.share(conversation, me, whom.user):
        notice = {"conversation_id": conversation, "by": me}
        await _leave_notices(connection, [whom.user], "shared", notice)


async def unshare(connection: Connection, whom: Whom) -> None:
    """Remove a member, and close their connections, also those that are still opening."""
    conversation = _conversation(connection)
    if whom.user == connection.user.id:
        raise Refusal("forbidden", "The owner of a conversation cannot be removed.")
    await _store(connection).unshare(conversation, connection.user.id, whom.user)
    server: Server = connection.application.state["server"]
    server.disconnect(
        user=whom.user, resource=connection.path_params, code="access_denied", message=DENIED
    )
    for type in ("shared", "unread"):
        withdrawn = connection.application.mailbox.withdraw(whom.user, _key(type, conversation))
        await answered(withdrawn)


def present(connection: Connection) -> dict[str, Any]:
    """Return who is connected, and the topic with the changes."""
    presence = connection.route.presence
    users = [attrs.asdict(user) for user in presence.users(connection.path_params)]
    return {"users": users, "topic": presence.topic(connection.path_params)}


def may_subscribe(connection: Connection, topic: str) -> bool:
    """Allow the topics of the connection's own conversation only."""
    return topic == connection.route.presence.topic(connection.path_params)


async def _say(connection: Connection, role: str, text: str) -> int:
    """Store a message, and send it to the other members, now or when they connect."""
    conversation, me = _conversation(connection), connection.user.id
    id = await _store(connection).add(conversation, role, me, text)
    here = connection.route.presence.connections(resource=connection.path_params)
    for other in here:
        if other is not connection:
            with suppress(trio.ClosedResourceError):
                said = {"message_id": id, "role": role, "by": me, "text": text}
                other.send_nowait("said", said)
    try:
        users = await _store(connection).members(conversation)
    except Refusal as refusal:  # the message itself is stored
        connection.log.warning("conversation_members_not_told", reason=refusal.code)
    else:
        notice = {"conversation_id": conversation, "message_id": id, "by": me}
        away = users - {other.user.id for other in here}
        await _leave_notices(connection, away, "unread", notice)
    return id


async def _leave_notices(
    connection: Connection, users: Iterable[str], type: str, notice: dict[str, Any]
) -> None:
    """Leave a notice for users, of which one of a kind waits for a conversation: the last.

    What it is about is done already. A notice that cannot be kept is logged, and fails nothing.
    """
    key = _key(type, notice["conversation_id"])
    for user in users:
        try:
            await answered(connection.application.mailbox.send(user, type, notice, key=key))
        except Refusal as refusal:
            connection.log.warning("conversation_members_not_told", reason=refusal.code)
            if refusal.code == "unavailable":
                break  # each of the others would wait for the database as long


def _key(type: str, conversation: str) -> str:
    return f"{type}:{conversation}"


def _answer(question: str, found: list[str]) -> str:
    if not found:
        return f"You have not mentioned that before. Tell me more about: {question}"
    quotes = "; ".join(f"“{text}”" for text in found)
    return f"You have come to this before, when you said: {quotes}. Now you ask: {question}"


def _store(connection: Connection) -> Store:
    store = connection.application.state["store"]
    assert isinstance(store, Store)
    return store


def _conversation(connection: Connection) -> str:
    return connection.path_params["conversation_id"]
