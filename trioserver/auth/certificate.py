"""The authenticator for client certificates, which the TLS handshake has verified."""

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
    """An `Authenticator` for listeners with ``client_ca``. The client's `auth` needs no token.

    - ``user``: what in the certificate is the user's id. "common_name" is that of the subject;
      "email", "dns" and "uri" are the one alternative name of that kind. Or a plain callable that
      takes the certificate and returns the id, or None to refuse it.
    - ``ca``: a PEM file with certificates, one of which must have issued the client's certificate
      directly. If None, every certificate that the listener's ``client_ca`` accepts is accepted.
      `reload` reads the file again.

    The connection is closed when the certificate expires. `User.token_id` is the SHA-256 of the
    certificate, in hexadecimal. Behind a proxy that terminates TLS, every client is refused,
    because the server does not see a certificate.
    """

    def __init__(
        self,
        *,
        user: Literal["common_name", "email", "dns", "uri"] | NameOf = "common_name",
        ca: str | Path | None = None,
    ) -> None:
        if not (callable(user) or user == "common_name" or user in _KINDS):
            raise ValueError(
                f"user is {user!r}; it must be 'common_name', 'email', 'dns', 'uri' or a callable"
            )
        self._user = user
        self._ca = None if ca is None else Path(ca)
        self._issuers: tuple[x509.Certificate, ...] | None = None
        self.reload()

    def reload(self) -> list[str]:
        """Read ``ca`` again, and return its name if it has changed.

        Raises `ValueError` if it cannot be read, and then keeps the old certificates.
        """
        if self._ca is None:
            return []
        try:
            issuers = tuple(x509.load_pem_x509_certificates(self._ca.read_bytes()))
        except (OSError, ValueError):
            raise ValueError(f"{self._ca} cannot be read as certificates in PEM") from None
        changed = self._issuers is not None and issuers != self._issuers
        self._issuers = issuers
        return [str(self._ca)] if changed else []

    async def __call__(self, credentials: Credentials, request: Request) -> User:
        """Return the certificate's user. Raises `Refusal` if there is no acceptable certificate."""
        await trio.lowlevel.checkpoint()
        certificate = request.certificate
        if certificate is None:
            raise Refusal("token_missing", "A client certificate is required.")
        if self._issuers is not None and not _is_issued_by(certificate, self._issuers):
            raise Refusal(
                "token_invalid",
                "The client certificate was issued by an issuer that is not accepted.",
            )
        name = self._name_of(certificate)
        if not (isinstance(name, str) and name and name.isprintable()):
            raise Refusal("token_invalid", "The client certificate does not name exactly one user.")
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
        # With several names it is not clear which is the user's.
        return names[0] if len(names) == 1 else None


def _is_issued_by(certificate: ClientCertificate, issuers: Iterable[x509.Certificate]) -> bool:
    leaf = x509.load_der_x509_certificate(certificate.der)
    return any(_has_issued(issuer, leaf) for issuer in issuers)


def _has_issued(issuer: x509.Certificate, leaf: x509.Certificate) -> bool:
    try:
        leaf.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True
