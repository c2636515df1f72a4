"""Looks up in a database which resources are whose: in a table, or by a query.

This runs in a thread, on a read connection. Calls in abandoned threads may overlap with others.

An id in a URL is text; a column may be of any type. Databases compare the two generously: "01" and
"1e0" are 1 to them, some raise for what is no number, others for a NUL. Here an id has exactly one
spelling, that of the column's value as text, and what cannot be an id belongs to no user. No text
that a peer may choose makes a look-up fail, for it would fail for all others of the batch.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

import attrs
import sqlalchemy
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    Connection,
    Executable,
    Select,
    String,
    Text,
    Uuid,
    cast,
    select,
)
from sqlalchemy.exc import DataError
from sqlalchemy.types import TypeEngine

from trioserver.storage.engine import read_on

Key: TypeAlias = tuple[str, ...]
"""The user's id, then those of the resource."""

_MAX_LENGTH: Final = 1024
"""Characters. An index of PostgreSQL takes no key longer than some 2,700 bytes."""

_INTEGER: Final = re.compile("0|-?[1-9][0-9]{0,18}")
_UUID: Final = re.compile("[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
"""RFC 9562, section 4: upper and lower case mean the same. Other spellings are refused."""

_LIKE_A_UUID: Final = re.compile(r"\{?([0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4}\}?")
_IDENTIFIER: Final = re.compile(r"[^\W\d]\w*")

_IMPOSSIBLE: Final = re.compile(r"[\x00\ud800-\udfff]")
"""PostgreSQL raises for a NUL, every driver for half of a surrogate pair."""

_LIKE_A_NUMBER: Final = re.compile(
    r"\s*[+-]?(0[xob][0-9a-f_]+|[0-9._]+(e[+-]?[0-9_]+)?)\s*", re.ASCII | re.IGNORECASE
)
"""What SQLite or PostgreSQL may read as a number."""

# PostgreSQL's type numbers, fixed in its pg_type.dat.
_INTEGERS: Final = frozenset({20, 21, 23, 1700})  # int8, int2, int4, numeric
_UUIDS: Final = frozenset({2950})
_TEXTS: Final = frozenset({19, 25, 1042, 1043})  # name, text, char(n), varchar(n)


def plausible(text: str) -> bool:
    """Whether it can be an id at all, as far as can be said without a database."""
    return 0 < len(text) <= _MAX_LENGTH and not _IMPOSSIBLE.search(text)


def _integer(text: str) -> int | None:
    if not _INTEGER.fullmatch(text):
        return None
    number = int(text)
    return number if -(2**63) <= number < 2**63 else None


def _uuid(text: str) -> uuid.UUID | None:
    return uuid.UUID(text) if _UUID.fullmatch(text) else None


class TableLookup:
    """Is there a row with this id and this owner? One query for all.

    There may be several rows for an id: each of their owners is one. All of them are fetched.
    """

    def __init__(self, table: str, *, id_column: str, owner_column: str) -> None:
        *schema, name = table.split(".", maxsplit=1)
        for identifier in (*schema, name, id_column, owner_column):
            if not _IDENTIFIER.fullmatch(identifier):
                raise ValueError(f"{identifier!r} is not the name of a schema, table or column")
        self._id: ColumnElement[Any] = sqlalchemy.column(id_column)
        self._owner: ColumnElement[Any] = sqlalchemy.column(owner_column)
        self._table = sqlalchemy.table(name, schema=schema[0] if schema else None)
        self._plan: _Plan | None = None

    def __call__(self, connection: Connection, keys: Sequence[Key]) -> Mapping[Key, bool]:
        plan = self._plan or self._make_plan(connection)
        self._plan = None  # after an error it is made anew: the table may have been changed
        found = plan.rows(connection, list({id_ for _, id_ in keys}))
        self._plan = plan
        return {key: (plan.fold_id(key[1]), plan.fold_owner(key[0])) in found for key in keys}

    def check(self, connection: Connection) -> None:
        """Raise if the table or one of its columns is missing, or may not be read."""
        connection.execute(select(self._id, self._owner).select_from(self._table).limit(0))

    def _make_plan(self, connection: Connection) -> _Plan:
        column: ColumnElement[Any] = self._id
        type_: TypeEngine[Any] = String()
        parse: Callable[[str], object] = str
        fold_id: Callable[[str], str] = str
        fold_owner: Callable[[str], str] = str
        if connection.dialect.name == "postgresql":
            # It compares with the column's own type only, or without an index. SQLite converts.
            columns = select(self._id, self._owner).select_from(self._table)
            id_type, owner_type = _type_numbers(connection, columns)
            fold_owner = _lower if owner_type in _UUIDS else str
            match id_type:
                case oid if oid in _INTEGERS:
                    type_, parse = BigInteger(), _integer
                case oid if oid in _UUIDS:
                    type_, parse, fold_id = Uuid(), _uuid, _lower
                case oid if oid not in _TEXTS:
                    column = cast(self._id, Text)  # right, if slow
        # As text, so that it is decided here who is who; in the select list a cast costs nothing.
        query = select(cast(self._id, Text), cast(self._owner, Text)).select_from(self._table)
        ids = sqlalchemy.bindparam("ids", type_=type_, expanding=True)
        return _Plan(query.where(column.in_(ids)), parse, fold_id, fold_owner)


@attrs.frozen
class _Plan:
    """The query, and what makes of an id in a URL a value of the column's type, or None.

    ``fold_id`` and ``fold_owner`` make of a text the one spelling that the column has for it.
    """

    query: Executable
    parse: Callable[[str], object]
    fold_id: Callable[[str], str]
    fold_owner: Callable[[str], str]

    def rows(self, connection: Connection, ids: Sequence[str]) -> set[tuple[str, str]]:
        """The pairs of id and owner."""
        values = [value for id_ in ids if (value := self.parse(id_)) is not None]
        if not values:
            return set()
        try:
            return {(id_, owner) for id_, owner in connection.execute(self.query, {"ids": values})}
        except DataError:
            # One has letters the database's encoding lacks: find it, and serve the others.
            read_on(connection)
            if len(ids) == 1:
                return set()
            half = len(ids) // 2
            return self.rows(connection, ids[:half]) | self.rows(connection, ids[half:])


def _lower(text: str) -> str:
    """The spelling of a UUID that PostgreSQL answers with; only a whole UUID may change."""
    return text.lower() if _UUID.fullmatch(text) else text


def _type_numbers(connection: Connection, query: Select[Any]) -> list[int]:
    cursor: Any = connection.execute(query.limit(0)).cursor
    return [column.type_code for column in cursor.description]


class QueryLookup:
    """Does the application's own query find anything? All queries of a batch on one connection.

    ``:user_id`` is the user's, whatever the path says. A row whose first value is not zero, false
    or NULL means yes, so that ``SELECT count(*)`` and ``SELECT EXISTS (...)`` mean what they say.
    """

    def __init__(self, query: str) -> None:
        self._query = sqlalchemy.text(query)
        names = dict.fromkeys(self._query.compile().params)
        if "user_id" not in names:
            raise ValueError(
                "the query does not use :user_id, so it would authorize every user for everything"
            )
        self.parameters = tuple(name for name in names if name != "user_id")

    def __call__(self, connection: Connection, keys: Sequence[Key]) -> Mapping[Key, bool]:
        names = ("user_id", *self.parameters)
        return {key: self._owns(connection, dict(zip(names, key, strict=True))) for key in keys}

    def check(self, connection: Connection) -> None:
        """Raise if the query cannot be run. It is run for ids that probably nobody has."""
        self._finds(connection, dict.fromkeys(("user_id", *self.parameters), "0"))

    def _owns(self, connection: Connection, values: dict[str, str]) -> bool:
        # The database compares. If it takes another spelling just as well, it did not compare text.
        return self._finds(connection, values) and not any(
            self._finds(connection, values | {name: other})
            for name, value in values.items()
            for other in _other_spellings(value)
        )

    def _finds(self, connection: Connection, values: dict[str, str]) -> bool:
        try:
            row = connection.execute(self._query, values).first()
        except DataError:  # "abc" for a number: PostgreSQL does not compare, it raises
            read_on(connection)
            return False
        return row is not None and bool(row[0])


def _other_spellings(text: str) -> Iterator[str]:
    """Of what may be a number or a UUID and is not spelt the canonical way; usually none."""
    if _LIKE_A_NUMBER.fullmatch(text) and not _INTEGER.fullmatch(text):
        yield f" {text}"
    if _LIKE_A_UUID.fullmatch(text) and not _UUID.fullmatch(text):
        yield text.strip("{}") if "{" in text else f"{{{text}}}"
