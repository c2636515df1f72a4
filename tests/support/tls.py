"""Certificates of an authority of our own, in files as an operator has them."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import attrs
import trio
import trustme

from trioserver.websocket.tls_stream import TLSStream

EXPIRED = datetime(2020, 1, 1, tzinfo=UTC)


@attrs.frozen
class Files:
    """An authority, and the files it issues certificates into."""

    folder: Path
    authority: trustme.CA = attrs.field(factory=trustme.CA)

    @property
    def certificate(self) -> Path:
        """The server's chain."""
        return self.folder / "certificate.pem"

    @property
    def key(self) -> Path:
        """The server's key."""
        return self.folder / "key.pem"

    @property
    def ca(self) -> Path:
        """The authority's own certificate."""
        path = self.folder / "ca.pem"
        self.authority.cert_pem.write_to_path(str(path))
        return path

    def issue(self, *, key_type: trustme.KeyType = trustme.KeyType.ECDSA) -> None:
        """Put a new pair for this machine in the place of the server's."""
        leaf = self.authority.issue_cert("localhost", "127.0.0.1", key_type=key_type)
        leaf.private_key_pem.write_to_path(str(self.key))
        self.certificate.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))

    def trusting(self) -> ssl.SSLContext:
        """A client's context that knows the authority."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def client(
        self,
        *identities: str,
        common_name: str | None = None,
        by: trustme.CA | None = None,
        expired: bool = False,
    ) -> ssl.SSLContext:
        """A client's context with a certificate of its own, of this authority or another."""
        context = self.trusting()
        not_after = EXPIRED if expired else datetime.now(UTC) + timedelta(days=1)
        leaf = (by or self.authority).issue_cert(
            *identities,
            common_name=common_name,
            not_before=EXPIRED - timedelta(days=1),
            not_after=not_after,
        )
        leaf.configure_cert(context)
        return context


def files_in(folder: Path) -> Files:
    """An authority with a pair for a server on this machine."""
    files = Files(folder)
    files.issue()
    return files


Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]
"""A server's, and that of a client that trusts it."""


def contexts_for(version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Contexts:
    """For "localhost"; they agree on this version."""
    authority = trustme.CA()
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.create_default_context()
    authority.issue_cert("localhost").configure_cert(server)
    authority.configure_trust(client)
    client.maximum_version = version
    return server, client


def stream_pair(contexts: Contexts) -> tuple[TLSStream, trio.SSLStream[trio.SocketStream]]:
    """The server's end and the client's, on sockets, before the handshake."""
    server, client = contexts
    ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
    return TLSStream(ours, server), trio.SSLStream(
        theirs, client, server_hostname="localhost", https_compatible=True
    )
