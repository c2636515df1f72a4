"""Client certificates as credentials; their way through TLS is in tests/server/test_tls.py."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from protocol import Refusal
from trioserver.auth import ClientCertificateAuth, Credentials, User
from trioserver.websocket.request import ClientCertificate, Request

AUTHORITY = trustme.CA()


def certificate_of(
    *identities: str, common_name: str | None = None, by: trustme.CA = AUTHORITY
) -> ClientCertificate:
    leaf = by.issue_cert(*identities, common_name=common_name)
    pem = leaf.cert_chain_pems[0].bytes()
    kinds = {"@": "email", ":": "URI"}
    names = [
        (next((kind for sign, kind in kinds.items() if sign in name), "DNS"), name)
        for name in identities
    ]
    return ClientCertificate.of(
        x509.load_pem_x509_certificate(pem).public_bytes(Encoding.DER),
        {
            "subject": ((("commonName", common_name),),) if common_name else (),
            "subjectAltName": tuple(names),
            "serialNumber": "01",
            "notAfter": "Jan  1 00:00:00 2040 GMT",
        },
    )


async def ask(auth: ClientCertificateAuth, certificate: ClientCertificate | None) -> User:
    return await auth(Credentials(source="message"), Request(path="/", certificate=certificate))


@pytest.mark.parametrize(
    ("user", "name"),
    [
        ("common_name", "alice"),
        ("email", "alice@example.org"),
        ("dns", "laptop.example.org"),
        (lambda certificate: certificate.serial_number, "01"),
    ],
)
async def test_the_user_is_where_it_was_said_to_stand(user: Any, name: str) -> None:
    certificate = certificate_of("alice@example.org", "laptop.example.org", common_name="alice")
    found = await ask(ClientCertificateAuth(user=user), certificate)
    assert found.id == name
    assert found.expires_at == ssl.cert_time_to_seconds("Jan  1 00:00:00 2040 GMT")
    assert found.token_id == hashlib.sha256(certificate.der).hexdigest()


NOBODY: list[tuple[Any, dict[str, Any]]] = [
    ("common_name", {}),
    ("common_name", {"common_name": "al\x00ice"}),
    ("email", {"common_name": "alice"}),
    (lambda certificate: None, {"common_name": "alice"}),
    (lambda certificate: "", {"common_name": "alice"}),
    (lambda certificate: 7, {"common_name": "alice"}),
]


@pytest.mark.parametrize(("user", "names"), NOBODY)
async def test_a_certificate_that_names_nobody_is_invalid(
    user: Callable[[ClientCertificate], str | None], names: dict[str, Any]
) -> None:
    with pytest.raises(Refusal) as refused:
        await ask(ClientCertificateAuth(user=user), certificate_of("a.example.org", **names))
    assert refused.value.code == "token_invalid"


async def test_of_two_names_none_is_the_user() -> None:
    certificate = certificate_of("a@example.org", "b@example.org")
    with pytest.raises(Refusal, match="does not name exactly one user"):
        await ask(ClientCertificateAuth(user="email"), certificate)


async def test_no_certificate_is_a_missing_token() -> None:
    with pytest.raises(Refusal) as refused:
        await ask(ClientCertificateAuth(), None)
    assert refused.value.code == "token_missing"


async def test_only_the_certificates_of_ca_are_taken_and_reload_reads_it_again(
    tmp_path: Path,
) -> None:
    path, other = tmp_path / "ca.pem", trustme.CA()
    AUTHORITY.cert_pem.write_to_path(str(path))
    auth = ClientCertificateAuth(ca=path)
    ours = certificate_of("a.example.org", common_name="alice")
    theirs = certificate_of("a.example.org", common_name="alice", by=other)
    assert (await ask(auth, ours)).id == "alice"
    with pytest.raises(Refusal, match="issuer that is not accepted"):
        await ask(auth, theirs)
    assert auth.reload() == []
    other.cert_pem.write_to_path(str(path), append=True)
    assert auth.reload() == [str(path)]
    assert (await ask(auth, theirs)).id == "alice"
    path.write_text("broken")
    with pytest.raises(ValueError, match="cannot be read as certificates"):
        auth.reload()
    assert (await ask(auth, theirs)).id == "alice"


def test_wrong_options_are_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="user is 'name'; it must be"):
        ClientCertificateAuth(user="name")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="cannot be read as certificates"):
        ClientCertificateAuth(ca=tmp_path / "nothing.pem")


def test_no_repr_shows_who_it_is() -> None:
    certificate = certificate_of("alice@example.org", common_name="alice")
    assert "alice" not in repr(certificate)
    assert "alice" not in repr(Request(path="/", certificate=certificate))
