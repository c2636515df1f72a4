"""The upgrade request, as authenticators and handlers see it."""

from __future__ import annotations

from collections.abc import Mapping

import attrs


@attrs.frozen(kw_only=True)
class Request:
    """The request that opened the connection.

    ``path`` is percent-decoded; ``query`` and ``headers`` keep the first value of each name,
    header names in lower case. ``remote`` and ``local`` are ``host:port``, or a Unix socket's
    path. The query and the headers may hold secrets: neither is in the repr.
    """

    path: str
    query: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    headers: Mapping[str, str] = attrs.field(factory=dict, repr=False)
    subprotocols: tuple[str, ...] = ()
    resource: Mapping[str, str] = attrs.field(factory=dict)
    remote: str = ""
    local: str = ""
    secure: bool = False
