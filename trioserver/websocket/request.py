"""The upgrade request, as authenticators and handlers see it."""

from __future__ import annotations

import ssl
from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from trioserver.logs.paths import masked_parameters, masked_path
from trioserver.websocket.multi_values import Headers, QueryParams


@attrs.frozen(kw_only=True)
class ClientCertificate:
    """A client's certificate, which the TLS handshake has verified: issuer, dates, and the key.

    ``subject`` has the values of each name (``commonName``, ``organizationName``),
    ``alternative_names`` those of each kind (``DNS``, ``email``, ``URI``). ``expires_at`` is in
    seconds since the Unix epoch; ``der`` is the certificate itself.
    """

    subject: Mapping[str, tuple[str, ...]] = attrs.field(repr=False)
    alternative_names: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict, repr=False)
    serial_number: str
    expires_at: float
    der: bytes = attrs.field(repr=False)

    @classmethod
    def of(cls, der: bytes, fields: Mapping[str, Any]) -> ClientCertificate:
        """From what `ssl.SSLSocket.getpeercert` gives, in both forms."""
        subject = [pair for group in fields["subject"] for pair in group]
        return cls(
            subject=_grouped(subject),
            alternative_names=_grouped(fields.get("subjectAltName", ())),
            serial_number=fields["serialNumber"],
            expires_at=float(ssl.cert_time_to_seconds(fields["notAfter"])),
            der=der,
        )


def _grouped(pairs: Iterable[tuple[str, Any]]) -> dict[str, tuple[str, ...]]:
    grouped: dict[str, tuple[str, ...]] = {}
    for name, value in pairs:
        if isinstance(value, str):  # a directory name is a tuple
            grouped[name] = (*grouped.get(name, ()), value)
    return grouped


def _params(values: Mapping[str, str]) -> QueryParams:
    return values if isinstance(values, QueryParams) else QueryParams(values)


def _headers(values: Mapping[str, str]) -> Headers:
    return values if isinstance(values, Headers) else Headers(values)


@attrs.frozen(kw_only=True)
class Request:
    """The request that opened the connection.

    ``path`` is percent-decoded. ``query[name]`` and ``headers[name]`` are the first value of a
    name, their ``getlist(name)`` returns all; names of headers are compared without case.
    ``remote`` and ``local`` are ``host:port``, or the path of a Unix socket. ``certificate`` is
    the client's, None if it showed none or was not asked for one.

    Clients put secrets into the query, the headers, the names of subprotocols and the path: the
    repr has none of the former, and the path masked.
    """

    path: str = attrs.field(repr=lambda path: repr(masked_path(path)))
    query: QueryParams = attrs.field(factory=QueryParams, converter=_params, repr=False)
    headers: Headers = attrs.field(factory=Headers, converter=_headers, repr=False)
    subprotocols: tuple[str, ...] = attrs.field(default=(), repr=False)
    path_params: Mapping[str, str] = attrs.field(
        factory=dict, repr=lambda path_params: repr(masked_parameters(path_params))
    )
    remote: str = ""
    local: str = ""
    secure: bool = False
    certificate: ClientCertificate | None = None
