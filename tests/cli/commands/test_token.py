"""`trioserver token make` and `trioserver token inspect`."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import jwt
import pytest
from click.testing import Result
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from jwt.algorithms import ECAlgorithm

from tests.cli.conftest import Invoke
from tests.support.patience import PATIENCE
from trioserver.auth import make_secret, make_token
from trioserver.cli.output.times import in_words
from trioserver.cli.parameters.durations import parse_duration

SECRET = make_secret()
OTHER_SECRET = make_secret()


@pytest.fixture
def make(invoke: Invoke) -> Invoke:
    """`make(...)` is `trioserver token make` with the secret in the environment."""

    def run(*arguments: str, **options: Any) -> Result:
        options.setdefault("env", {"TRIOSERVER_SECRET": SECRET})
        return invoke("token", "make", *arguments, **options)

    return run


def claims_of(result: Result, secret: str = SECRET) -> dict[str, Any]:
    assert result.stderr == ""
    claims: dict[str, Any] = jwt.decode(
        result.stdout.strip(), secret, algorithms=["HS256"], options={"verify_aud": False}
    )
    return claims


# ------------------------------------------------------------------------------ make


def test_only_the_token_is_printed(make: Invoke) -> None:
    result = make("alice")
    assert result.stdout.count("\n") == 1
    claims = claims_of(result)
    assert claims["sub"] == "alice"
    assert claims["exp"] - time.time() == pytest.approx(1800, abs=PATIENCE)


def test_the_lifetime_has_units(make: Invoke) -> None:
    claims = claims_of(make("alice", "--lifetime", "1h30m"))
    assert claims["exp"] - time.time() == pytest.approx(5400, abs=PATIENCE)


def test_a_negative_lifetime_makes_an_expired_token(make: Invoke) -> None:
    result = make("alice", "--lifetime", "-5m")
    with pytest.raises(jwt.ExpiredSignatureError):
        claims_of(result)


def test_a_claim_is_text_unless_it_says_json(make: Invoke) -> None:
    claims = claims_of(
        make(
            *("alice", "--claims", '{"role": "user", "age": 5}', "--claim", "phone=9876543210"),
            *("--claim", "admin:=true", "--claim", "equation=a=b"),
        )
    )
    assert (claims["role"], claims["age"]) == ("user", 5)
    assert claims["phone"] == "9876543210"
    assert claims["admin"] is True
    assert claims["equation"] == "a=b"


def test_issuer_and_audience_are_claims(make: Invoke) -> None:
    claims = claims_of(make("alice", "--issuer", "me", "--audience", "a", "--audience", "b"))
    assert (claims["iss"], claims["aud"]) == ("me", ["a", "b"])


def test_the_key_id_is_in_the_header(make: Invoke) -> None:
    token = make("alice", "--kid", "2026", "--algorithm", "HS512").stdout.strip()
    header = jwt.get_unverified_header(token)
    assert (header["kid"], header["alg"]) == ("2026", "HS512")


def test_of_a_file_with_several_secrets_the_first_signs_and_each_verifies(
    invoke: Invoke, tmp_path: Path
) -> None:
    file, new = tmp_path / "secret", make_secret()
    file.write_bytes(f"\ufeff{new}\r\n{SECRET}\r\n".encode())
    claims = claims_of(invoke("token", "make", "alice", "--secret-file", str(file)), new)
    assert claims["sub"] == "alice"
    for secret in (new, SECRET):
        token = make_token(secret, subject="alice")
        result = invoke("token", "inspect", token, "--json", "--secret-file", str(file))
        assert (result.exit_code, json.loads(result.stdout)["verified"]) == (0, True)


def test_a_file_with_more_than_secrets_signs_nothing(invoke: Invoke, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"# of production, rotated yearly by Jane\n{SECRET}\n")
    result = invoke("token", "make", "alice", "--secret-file", str(file))
    assert (result.exit_code, result.stdout) == (3, "")
    assert "The secret of line 1 looks like a comment" in result.stderr
    assert "Jane" not in result.stderr


@pytest.mark.parametrize("how", ["--secret", "--secret-file", "stdin"])
def test_the_command_line_s_secret_wins_over_the_environment_s(
    make: Invoke, tmp_path: Path, how: str
) -> None:
    file = tmp_path / "secret"
    file.write_text(OTHER_SECRET + "\n")
    arguments = {
        "--secret": ("--secret", OTHER_SECRET),
        "--secret-file": ("--secret-file", str(file)),
        "stdin": ("--secret-file", "-"),
    }[how]
    result = make("alice", *arguments, input=OTHER_SECRET if how == "stdin" else None)
    assert claims_of(result, OTHER_SECRET)["sub"] == "alice"


def key_pair(folder: Path, kind: str) -> tuple[Path, Path]:
    private: Any = {
        "RS256": lambda: rsa.generate_private_key(65537, 2048),
        "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "EdDSA": ed25519.Ed25519PrivateKey.generate,
    }[kind]()
    private_file, public_file = folder / "private.pem", folder / "public.pem"
    private_file.write_bytes(
        private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    public_file.write_bytes(
        private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    return private_file, public_file


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_a_private_key_signs_and_its_public_key_verifies(
    invoke: Invoke, tmp_path: Path, algorithm: str
) -> None:
    private, public = key_pair(tmp_path, algorithm)
    token = invoke("token", "make", "alice", "--key-file", str(private)).stdout.strip()
    assert jwt.get_unverified_header(token)["alg"] == algorithm
    result = invoke("token", "inspect", token, "--key-file", str(public))
    assert result.exit_code == 0
    assert f"ACCEPTED with {public}." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["alice", "--lifetime", "soon"], "is not a duration; write 90s, 30m, 1h30m, 2d"),
        (["alice", "--lifetime", "9999999d"], "is too long; the maximum is 100 years"),
        (["alice", "--claim", "admin"], "--claim is 'admin'; it must be NAME=TEXT or NAME:=JSON"),
        (["alice", "--claim", "=x"], "it must be NAME=TEXT or NAME:=JSON"),
        (["alice", "--claim", "admin:=yes"], "--claim admin:=yes is not JSON"),
        (["alice", "--claims", "[1]"], "--claims is '[1]'; it must be a JSON object"),
        (["alice", "--claims", "{"], "--claims is not JSON"),
        (["alice", "--secret", "a", "--key-file", "b"], "cannot be combined"),
        (["alice", "--algorithm", "none"], "--algorithm"),
        ([""], "SUBJECT is empty"),
    ],
)
def test_a_wrong_command_line_says_what_to_write(
    make: Invoke, arguments: list[str], said: str
) -> None:
    result = make(*arguments)
    assert result.exit_code == 2
    assert said in result.stderr
    assert result.stdout == ""


def test_without_a_key_it_says_where_to_get_one(invoke: Invoke) -> None:
    result = invoke("token", "make", "alice")
    assert result.exit_code == 2
    assert "set TRIOSERVER_SECRET (`trioserver secret` makes a secret)" in result.stderr


@pytest.mark.parametrize("secret", ["tooshort", "your-256-bit-secret", ""])
def test_a_weak_secret_is_refused_and_not_printed(make: Invoke, secret: str) -> None:
    result = make("alice", env={"TRIOSERVER_SECRET": secret})
    assert result.exit_code == 3
    assert "made with `trioserver secret`" in result.stderr
    assert "TRIOSERVER_SECRET" in result.stderr
    assert not secret or secret not in result.stderr
    assert result.stderr.count("\n") == 1


def test_an_algorithm_that_the_key_has_not_is_refused(make: Invoke) -> None:
    result = make("alice", "--algorithm", "ES256")
    assert result.exit_code == 3
    assert "HS256, HS384, HS512" in result.stderr


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "No such file"),
        (b"\xff" * 40, "not text in UTF-8"),
        (b"x" * 70_000, "larger than 64 KiB"),
        (b"-----BEGIN PRIVATE KEY-----", "PEM"),
    ],
    ids=["missing", "binary", "huge", "broken"],
)
def test_a_key_file_that_does_not_do_is_one_sentence(
    make: Invoke, tmp_path: Path, content: bytes | None, said: str
) -> None:
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    result = make("alice", "--key-file", str(file))
    assert result.exit_code == 3
    assert said in result.stderr
    assert str(file) in result.stderr
    assert result.stderr.count("\n") == 1


# ------------------------------------------------------------------------------ inspect


def token(lifetime: float = 600.0, **claims: Any) -> str:
    return make_token(SECRET, subject="alice", lifetime=lifetime, claims=claims)


def with_secret(secret: str = SECRET) -> dict[str, dict[str, str]]:
    return {"env": {"TRIOSERVER_SECRET": secret}}


def test_without_a_key_it_says_not_verified(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(role="admin"))
    assert result.exit_code == 0
    assert "NOT VERIFIED" in result.stdout
    assert '"role": "admin"' in result.stdout
    assert '"alg": "HS256"' in result.stdout


def test_a_good_token_is_accepted_and_says_how_long(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(630), **with_secret())
    assert result.exit_code == 0
    assert "ACCEPTED with TRIOSERVER_SECRET." in result.stdout
    assert "(in 10 min" in result.stdout
    assert " ago)" in result.stdout


def test_an_expired_token_is_refused_and_says_since_when(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(-185), **with_secret())
    assert result.exit_code == 1
    assert "(expired 3 min" in result.stdout
    assert "REFUSED with TRIOSERVER_SECRET: token_expired." in result.stdout
    assert "get a new token" in result.stdout


def test_an_expired_token_is_told_without_a_key_as_well(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(-185))
    assert result.exit_code == 0
    assert "it has expired" in result.stdout


def test_a_forged_token_is_refused(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(), **with_secret(OTHER_SECRET))
    assert result.exit_code == 1
    assert "token_invalid" in result.stdout


@pytest.mark.parametrize("secret", [SECRET, None])
def test_what_is_no_token_is_refused(invoke: Invoke, secret: str | None) -> None:
    result = invoke("token", "inspect", "hello", **({} if secret is None else with_secret(secret)))
    assert result.exit_code == 1
    assert "REFUSED" in result.stdout
    assert "not a JWT" in result.stdout


def test_issuer_and_audience_are_asked_for(invoke: Invoke) -> None:
    arguments = ("inspect", token(iss="them", aud="app"), "--audience", "app", "--issuer")
    assert invoke("token", *arguments, "them", **with_secret()).exit_code == 0
    result = invoke("token", *arguments, "us", **with_secret())
    assert result.exit_code == 1
    assert "another issuer" in result.stdout


def test_a_jwk_set_signs_and_verifies_and_the_user_may_be_in_another_claim(
    invoke: Invoke, tmp_path: Path
) -> None:
    private = ec.generate_private_key(ec.SECP384R1())
    jwk = {**ECAlgorithm.to_jwk(private, as_dict=True), "kid": "2026", "use": "sig"}
    public = {name: value for name, value in jwk.items() if name != "d"}
    private_set, public_set = tmp_path / "private.json", tmp_path / "jwks.json"
    private_set.write_text(json.dumps({"keys": [public | {"kid": "2025"}, jwk]}))
    public_set.write_text(json.dumps({"keys": [public]}))
    made = invoke("token", "make", "x", "--claim", "oid=alice", "--key-file", str(private_set))
    text = made.stdout.strip()
    assert jwt.get_unverified_header(text) == {"alg": "ES384", "kid": "2026", "typ": "JWT"}
    arguments = ("token", "inspect", text, "--key-file", str(public_set), "--user-id-claim")
    assert invoke(*arguments, "oid").exit_code == 0
    result = invoke(*arguments, "tid")
    assert result.exit_code == 1
    assert "no tid claim" in result.stdout
    result = invoke("token", "make", "x", "--key-file", str(public_set))
    assert result.exit_code == 3
    assert "no private key" in result.stderr


def test_the_leeway_is_for_clocks_that_differ(invoke: Invoke) -> None:
    arguments = ("token", "inspect", token(-50), "--leeway")
    assert invoke(*arguments, "60s", **with_secret()).exit_code == 0
    assert invoke(*arguments, "0", **with_secret()).exit_code == 1


def test_json_is_for_machines(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(-100), "--json", **with_secret())
    printed = json.loads(result.stdout)
    assert result.exit_code == 1
    assert printed["verified"] is False
    assert printed["refusal"]["code"] == "token_expired"
    assert printed["refusal"]["retry"] == "refresh_token"
    assert printed["claims"]["sub"] == "alice"
    assert printed["expires_in"] == pytest.approx(-100, abs=5)
    assert printed["expires_at"].endswith("Z")


def test_json_says_null_where_nothing_was_verified(invoke: Invoke) -> None:
    printed = json.loads(invoke("token", "inspect", token(), "--json").stdout)
    assert printed["verified"] is None
    assert printed["refusal"] is None


@pytest.mark.parametrize("wrapping", ["{}\n", "Bearer {}", " Authorization: Bearer {}\n"])
@pytest.mark.parametrize("source", ["argument", "stdin", "file", "environment"])
def test_the_token_may_come_from_anywhere(
    invoke: Invoke, tmp_path: Path, source: str, wrapping: str
) -> None:
    text = wrapping.format(token())
    file = tmp_path / "token"
    file.write_text(text)
    arguments = {"argument": [text], "stdin": ["-"], "file": ["--file", str(file)]}.get(source, [])
    env = {"TRIOSERVER_SECRET": SECRET, "TRIOSERVER_TOKEN": text if source[0] == "e" else None}
    result = invoke("token", "inspect", *arguments, env=env, input=text)
    assert result.exit_code == 0
    assert "ACCEPTED" in result.stdout


def test_no_token_at_all_is_a_wrong_command_line(invoke: Invoke) -> None:
    result = invoke("token", "inspect")
    assert result.exit_code == 2
    assert "--file" in result.stderr


def test_what_a_token_says_does_not_command_the_terminal(invoke: Invoke) -> None:
    result = invoke("token", "inspect", token(name="\x1b[2J\x9b[bold]x"))
    assert not {"\x1b", "\x9b"} & set(result.stdout)
    assert "[bold]x" in result.stdout


def test_a_token_without_an_expiry_never_expires(invoke: Invoke) -> None:
    eternal = jwt.encode({"sub": "alice"}, SECRET)
    result = invoke("token", "inspect", eternal, **with_secret())
    assert result.exit_code == 1
    assert "Expires  never" in result.stdout


# ------------------------------------------------------------------------------ durations


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("30m", 1800),
        ("5min", 300),
        ("1h30m", 5400),
        ("2d", 172_800),
        ("-5m", -300),
        (" 1h ", 3600),
        ("1.5h", 5400),
    ],
)
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "m", "5 minutes", "1h-30m", "nan", "inf", "1e9", "5w"])
def test_what_is_no_duration_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not a duration"):
        parse_duration(text)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "less than a second"),
        (59, "59 s"),
        (-180, "3 min"),
        (185, "3 min 5 s"),
        (5400, "1 h 30 min"),
        (86_400 + 3600 + 5, "1 d 1 h"),
    ],
)
def test_durations_are_told_in_one_or_two_units(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
