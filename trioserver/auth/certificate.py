"""The authenticator for client certificates: the TLS handshake has proved who it is."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Literal, TypeAlias

import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm

from protocol import Refusal
from trioserver.auth.component import Component
from trioserver.auth.user import Credentials, User
from trioserver.websocket.request import ClientCertificate, Request

NameOf: TypeAlias = Callable[[ClientCertificate], str | None]

_KINDS: Final = {"email": "email", "dns": "DNS", "uri": "URI"}


class ClientCertificateAuth(Component):
    """An `Authenticator` for listeners with ``client_ca``; `auth` needs no token.

    - ``user``: where in the certificate the user's id stands: the ``common_name`` of the subject,
      or its one alternative name of a kind; or a plain callable that finds it, None for nobody.
    - ``ca``: a PEM file of certificates of which one must have issued the client's, directly; None
      takes all that the listener's ``client_ca`` has let in. `reload` reads it again.

    The connection ends with the certificate. `User.token_id` is the SHA-256 of the certificate, in
    hexadecimal. Behind a proxy that ends TLS there is no certificate to see, and nobody gets in.
    """

    def __init__(
        self,
        *,
        user: Literal["common_name", "email", "dns", "uri"] | NameOf = "common_name",
        ca: str | Path | None = None,
    ) -> None:
        if not (callable(user) or user == "common_name" or user in _KINDS):
            raise ValueError(f"user is {user!r}; it must be common_name, email, dns or uri.")
        self._user = user
        self._ca = None if ca is None else Path(ca)
        self._issuers: tuple[x509.Certificate, ...] | None = None
        self.reload()

    def reload(self) -> list[str]:
        """Reads ``ca`` again; returns what has changed. Raises `ValueError`, then the old stays."""
        if self._ca is None:
            return []
        try:
            issuers = tuple(x509.load_pem_x509_certificates(self._ca.read_bytes()))
        except (OSError, ValueError):
            raise ValueError(f"{self._ca} cannot be read as certificates in PEM.") from None
        changed = self._issuers is not None and issuers != self._issuers
        self._issuers = issuers
        return [str(self._ca)] if changed else []

    async def __call__(self, credentials: Credentials, request: Request) -> User:
        """The certificate's user. Raises `Refusal` for none, and for one that will not do."""
        await trio.lowlevel.checkpoint()
        certificate = request.certificate
        if certificate is None:
            raise Refusal("token_missing", "A client certificate is needed here.")
        if self._issuers is not None and not _is_issued_by(certificate, self._issuers):
            raise Refusal("token_invalid", "The client certificate is of another issuer.")
        name = self._name_of(certificate)
        if not (isinstance(name, str) and name and name.isprintable()):
            raise Refusal("token_invalid", "The client certificate names no user.")
        return User(
            id=name,
            claims={"serial_number": certificate.serial_number},
            expires_at=certificate.expires_at,
            token_id=hashlib.sha256(certificate.der).hexdigest(),
        )

    def _name_of(self, certificate: ClientCertificate) -> str | None:
        if callable(self._user):
            return self._user(certificate)
        if self._user == "common_name":
            names = certificate.subject.get("commonName", ())
        else:
            names = certificate.alternative_names.get(_KINDS[self._user], ())
        return names[0] if len(names) == 1 else None  # of several, none is the user for sure


def _is_issued_by(certificate: ClientCertificate, issuers: Iterable[x509.Certificate]) -> bool:
    leaf = x509.load_der_x509_certificate(certificate.der)
    return any(_has_issued(issuer, leaf) for issuer in issuers)


def _has_issued(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
