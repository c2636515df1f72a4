"""Keys from files, and reading them again while tokens come in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm
from structlog.testing import capture_logs

from protocol import Refusal
from trioserver.auth import JWTAuth, WeakSecretError, make_secret, make_token

FIRST, SECOND = make_secret(), make_secret()
PRIVATE = generate_private_key(SECP256R1())


def pem() -> str:
    public = PRIVATE.public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


def jwk() -> dict[str, Any]:
    return {**json.loads(ECAlgorithm.to_jwk(PRIVATE.public_key())), "kid": "one"}


@pytest.fixture
def secret_file(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{FIRST}\n")
    return path


def test_a_secret_is_changed_without_refusing_anybody(secret_file: Path) -> None:
    auth = JWTAuth(secret_file=secret_file)
    old, new = make_token(FIRST, subject="alice"), make_token(SECOND, subject="alice")
    assert auth.check(old).id == "alice"
    with pytest.raises(Refusal):
        auth.check(new)
    assert auth.reload() == []
    secret_file.write_text(f"{SECOND}\n\n {FIRST} \n")
    assert auth.reload() == [str(secret_file)]
    assert auth.check(old).id == auth.check(new).id == "alice"
    secret_file.write_text(SECOND)
    auth.reload()
    assert auth.check(new).id == "alice"
    with pytest.raises(Refusal):
        auth.check(old)


# What people write into such files, and what would be a key that others can guess.
NOT_SECRETS = {
    f"# the key of production, rotated yearly by Jane\n{FIRST}": "of line 1 looks like a comment",
    f"{FIRST}\n\n// the old one, until the end of March": "of line 3 looks like a comment",
    f"{FIRST}\nthe key of production, rotated yearly by Jane": "of line 2 has white space in it",
    f"TRIOSERVER_SECRET={FIRST}": "looks like NAME=value",
    f"export TRIOSERVER_SECRET={FIRST}": "looks like NAME=value",
    f"jwt_secret={FIRST}": "looks like NAME=value",
    f"secret: {FIRST}": "looks like NAME=value",
    f'"{FIRST}"': "is in quotes",
    f"'{FIRST}'": "is in quotes",
    pem(): "is a key or certificate",
}


@pytest.mark.parametrize("content", NOT_SECRETS)
def test_a_line_that_is_no_secret_is_refused_and_not_told(secret_file: Path, content: str) -> None:
    secret_file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{secret_file}: The secret ")) as raised:
        JWTAuth(secret_file=secret_file)
    message = str(raised.value)
    assert NOT_SECRETS[content] in message
    assert FIRST not in message
    assert "Jane" not in message


@pytest.mark.parametrize(
    "data",
    [
        b"\xef\xbb\xbf" + FIRST.encode() + b"\r\n",
        b"\r\n  " + FIRST.encode() + b" \t\r\n\r\n" + SECOND.encode(),
    ],
    ids=["byte order mark", "white space around"],
)
def test_what_editors_add_is_left_out(secret_file: Path, data: bytes) -> None:
    secret_file.write_bytes(data)
    assert JWTAuth(secret_file=secret_file).check(make_token(FIRST, subject="a")).id == "a"


@pytest.mark.parametrize("form", ["PEM", "JWK set"])
def test_a_byte_order_mark_is_left_out_of_key_files(tmp_path: Path, form: str) -> None:
    path = tmp_path / "keys"
    text = pem() if form == "PEM" else json.dumps({"keys": [jwk()]})
    path.write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert JWTAuth(key_files=[path]).check(make_token(PRIVATE, subject="a")).id == "a"


@pytest.mark.parametrize(("mode", "told"), [(0o600, False), (0o640, False), (0o644, True),
                                            (0o660, True), (0o666, True)])  # fmt: skip
def test_a_secret_that_others_may_read_is_told_of(secret_file: Path, mode: int, told: bool) -> None:
    secret_file.chmod(mode)
    with capture_logs() as logs:
        JWTAuth(secret_file=secret_file)
    assert (
        logs
        == [
            {
                "event": "file_permissions_too_open",
                "log_level": "warning",
                "path": str(secret_file),
                "mode": f"{mode:04o}",
                "hint": f"chmod 600 {secret_file}",
            }
        ]
        * told
    )


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, " cannot be read: No such file or directory"),
        ("", ": The secret is empty"),
        (" \n\n", ": The secret is empty"),
        ("Tr0ub4dor", ": The secret is shorter than 32 bytes"),
        ("changeme" * 8, ": The secret is a well-known placeholder"),
        (f"{FIRST}\nTr0ub4dor", ": The secret is shorter than 32 bytes"),
    ],
)
def test_a_bad_file_changes_nothing_and_no_secret_is_told(
    secret_file: Path, content: str | None, said: str
) -> None:
    auth = JWTAuth(secret_file=secret_file)
    if content is None:
        secret_file.unlink()
    else:
        secret_file.write_text(content)
    with pytest.raises(ValueError, match=re.escape(f"{secret_file}{said}")) as raised:
        auth.reload()
    for line in (FIRST, "Tr0ub4dor", "changeme"):
        assert line not in str(raised.value)
    assert auth.check(make_token(FIRST, subject="alice")).id == "alice"


def test_a_bad_file_stops_the_start(tmp_path: Path) -> None:
    path = tmp_path / "secret"
    with pytest.raises(ValueError, match="cannot be read: No such file"):
        JWTAuth(secret_file=path)
    path.write_bytes(b"\xff" * 40)
    with pytest.raises(ValueError, match="is not UTF-8"):
        JWTAuth(secret_file=path)
    path.write_text("changeme")
    with pytest.raises(ValueError, match=r"`trioserver secret`"):
        JWTAuth(secret_file=path)
    assert issubclass(WeakSecretError, ValueError)


@pytest.mark.parametrize("form", ["PEM", "JWK", "JWK set"])
def test_public_keys_are_read_in_every_form(tmp_path: Path, form: str) -> None:
    path = tmp_path / "keys"
    texts = {"PEM": pem(), "JWK": json.dumps(jwk()), "JWK set": json.dumps({"keys": [jwk()]})}
    path.write_text(texts[form])
    auth = JWTAuth(key_files=[path])
    key_id = None if form == "PEM" else "one"
    assert auth.check(make_token(PRIVATE, subject="alice", key_id=key_id)).id == "alice"


@pytest.mark.parametrize(
    "text", ["", "{", '{"keys": 1}', '{"keys": []}', '{"keys": [1]}', '{"kty": "x"}', "[" * 10_000]
)
def test_files_without_keys_are_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(ValueError, match=f"{path}: "):
        JWTAuth(key_files=[path])


def test_rotating_leaves_the_keys_of_files(secret_file: Path) -> None:
    auth = JWTAuth(secret=SECOND, secret_file=secret_file)
    auth.rotate()
    assert auth.check(make_token(FIRST, subject="alice")).id == "alice"
    with pytest.raises(Refusal):
        auth.check(make_token(SECOND, subject="alice"))
