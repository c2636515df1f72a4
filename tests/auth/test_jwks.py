"""Keys from a JWKS URL: while the provider is up, down, slow, wrong, and back."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import attrs
import jwt
import pytest
import trio
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from protocol import Refusal
from tests.support.patience import PATIENCE
from trioserver.auth import JWKS, Credentials, JWTAuth, Key, make_secret, make_token
from trioserver.auth.jwks import parse_jwks
from trioserver.auth.tokens import PrivateKey
from trioserver.websocket.request import Request

URL = "https://provider.example/keys?tenant=hidden"
NOW = 1_000_000.0
PRIVATE: dict[str, PrivateKey] = {
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


def jwk_of(algorithm: str, **more: object) -> dict[str, Any]:
    public = PRIVATE[algorithm].public_key()
    jwk = jwt.get_algorithm_by_name(algorithm).to_jwk(public, as_dict=True)
    assert isinstance(jwk, dict)
    return jwk | {"kid": algorithm} | more


def body_of(*jwks: object) -> bytes:
    return json.dumps({"keys": jwks}).encode()


@attrs.define
class Provider:
    """The far end: what it answers, how long it takes, when it was asked."""

    body: bytes = body_of(jwk_of("RS256"))
    error: Exception | None = None
    delay: float = 0.0
    asked_at: list[float] = attrs.field(factory=list)

    async def __call__(self, url: str) -> bytes:
        assert url == URL
        self.asked_at.append(trio.current_time())
        await trio.sleep(self.delay)
        if self.error is not None:
            raise self.error
        return self.body


@pytest.fixture
def provider() -> Provider:
    return Provider()


@pytest.fixture
def jwks(provider: Provider) -> JWKS:
    return JWKS(URL, fetch=provider)


def auth_for(jwks: JWKS, **options: Any) -> JWTAuth:
    return JWTAuth(jwks=jwks, clock=lambda: NOW, **options)


def token_of(algorithm: str, kid: str | None = None) -> str:
    return make_token(
        PRIVATE[algorithm], subject="alice", key_id=kid or algorithm, clock=lambda: NOW
    )


async def code(auth: JWTAuth, token: str) -> str:
    try:
        await auth(Credentials(source="message", token=token), Request(path="/"))
    except Refusal as refusal:
        return refusal.code
    return "ready"


async def test_it_fetches_at_once_and_then_every_interval(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    await nursery.start(jwks.run)
    assert len(jwks.keys.keys) == 1
    await trio.sleep(901)
    start = provider.asked_at[0]
    assert [at - start for at in provider.asked_at] == [0, 300, 600, 900]


@pytest.mark.parametrize("algorithm", PRIVATE)
async def test_tokens_are_verified_with_its_keys(
    algorithm: str,
    provider: Provider,
    jwks: JWKS,
    nursery: trio.Nursery,
    autojump_clock: trio.abc.Clock,
) -> None:
    provider.body = body_of(*(jwk_of(name) for name in PRIVATE))
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    assert await code(auth, token_of(algorithm)) == "ready"
    assert len(provider.asked_at) == 1


@pytest.mark.parametrize(
    ("error", "body", "delay"),
    [
        (OSError("down"), b"", 0.0),
        (ExceptionGroup("down", [OSError()]), b"", 0.0),
        (None, body_of(jwk_of("RS256")), 60.0),
        (None, b"\xff", 0.0),
        (None, b"[" * 100_000, 0.0),
        (None, body_of(), 0.0),
        (None, b"[]", 0.0),
    ],
)
async def test_the_server_starts_with_the_provider_down_and_says_unavailable(
    error: Exception | None,
    body: bytes,
    delay: float,
    provider: Provider,
    jwks: JWKS,
    nursery: trio.Nursery,
    autojump_clock: trio.abc.Clock,
) -> None:
    auth = auth_for(jwks)
    provider.error, provider.body, provider.delay = error, body, delay
    with trio.fail_after(6), capture_logs() as logs:
        await nursery.start(auth.run)
    assert [line["log_level"] for line in logs] == ["warning"]
    assert "hidden" not in str(logs)
    with trio.fail_after(6):
        assert await code(auth, token_of("RS256")) == "unavailable"
        assert await code(auth, "garbage") == "token_invalid"
    provider.error, provider.body, provider.delay = None, Provider().body, 0.0
    await trio.sleep(40)
    assert await code(auth, token_of("RS256")) == "ready"


async def test_old_keys_stay_good_while_the_provider_is_down(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.error = OSError("down")
    await trio.sleep(80_000)
    assert await code(auth, token_of("RS256")) == "ready"
    assert await code(auth, token_of("ES256")) == "unavailable"  # it may be the provider's
    provider.error, provider.body = None, body_of(jwk_of("ES256"))
    await trio.sleep(301)
    assert await code(auth, token_of("ES256")) == "ready"
    assert await code(auth, token_of("RS256")) == "token_invalid"


async def test_failed_fetches_are_tried_again_with_growing_delays(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    provider.error = OSError("down")
    await nursery.start(jwks.run)
    await trio.sleep(1200)
    start = provider.asked_at[0]
    assert [at - start for at in provider.asked_at] == [
        0,
        1,
        3,
        7,
        15,
        31,
        63,
        127,
        255,
        511,
        811,
        1111,
    ]


async def test_an_unknown_kid_is_looked_for_at_once(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.body = body_of(jwk_of("RS256"), jwk_of("ES256"))
    assert await code(auth, token_of("ES256")) == "ready"
    assert len(provider.asked_at) == 2


async def test_unknown_kids_cause_three_fetches_at_once_and_then_one_in_three_seconds(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    start, number = provider.asked_at[0], 0
    while trio.current_time() < start + 30:
        number += 1
        assert await code(auth, token_of("RS256", kid=f"unknown-{number}")) == "token_invalid"
    assert [at - start for at in provider.asked_at] == pytest.approx(
        [0, 0, 0, 0, *range(3, 31, 3)], abs=0.01
    )


async def test_users_of_a_new_key_get_in_while_a_stranger_sends_unknown_kids_without_a_pause(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.delay = 0.2

    async def stranger(name: int) -> None:
        while True:
            await code(auth, token_of("RS256", kid=f"unknown-{name}-{trio.current_time()}"))

    async with trio.open_nursery() as strangers:
        for name in range(20):
            strangers.start_soon(stranger, name)
        await trio.sleep(60)
        provider.body = body_of(jwk_of("RS256"), jwk_of("ES256"))
        start = trio.current_time()
        assert await code(auth, token_of("ES256")) == "ready"
        assert trio.current_time() - start < 4
        strangers.cancel_scope.cancel()
    assert len(provider.asked_at) <= 1 + 3 + 64 / 3


async def test_a_stray_token_does_not_delay_the_users_of_a_new_key(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    assert await code(auth, token_of("RS256", kid="nonsense")) == "token_invalid"
    provider.body = body_of(jwk_of("RS256"), jwk_of("ES256"))
    start = trio.current_time()
    assert await code(auth, token_of("ES256")) == "ready"
    assert trio.current_time() == start


async def test_while_a_fetch_is_held_back_nobody_is_told_that_the_token_is_invalid(
    provider: Provider, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(JWKS(URL, fetch=provider, cooldown=30.0))
    await nursery.start(auth.run)
    for _ in range(3):
        assert await code(auth, token_of("RS256", kid="unknown")) == "token_invalid"
    provider.body = body_of(jwk_of("RS256"), jwk_of("ES256"))
    start = trio.current_time()
    assert await code(auth, token_of("ES256")) == "unavailable"
    assert trio.current_time() - start == pytest.approx(5.0)
    assert len(provider.asked_at) == 4
    await trio.sleep(25)
    assert await code(auth, token_of("ES256")) == "ready"


async def test_a_fetch_that_began_before_a_key_was_published_says_nothing_about_it(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.delay = 1.0
    nursery.start_soon(code, auth, token_of("RS256", kid="nonsense"))
    await trio.sleep(0.5)

    async def publish() -> None:
        await trio.sleep(0.8)
        provider.body = body_of(jwk_of("RS256"), jwk_of("ES256"))

    provider.delay = 0.7
    nursery.start_soon(publish)
    assert await code(auth, token_of("ES256")) == "ready"
    assert len(provider.asked_at) == 3


async def test_a_provider_that_fails_just_then_makes_no_token_invalid(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.error = OSError("down")
    for _ in range(10):
        assert await code(auth, token_of("ES256")) == "unavailable"
    provider.error = None
    assert await code(auth, token_of("ES256")) == "token_invalid"


async def test_a_new_key_without_a_kid_is_looked_for_too(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    new = ec.generate_private_key(ec.SECP256R1())
    public = jwt.get_algorithm_by_name("ES256").to_jwk(new.public_key(), as_dict=True)
    provider.body = body_of(jwk_of("ES256", kid=None))
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    token = make_token(new, subject="alice", clock=lambda: NOW)
    assert await code(auth, token) == "token_invalid"
    provider.body = body_of(public)
    assert await code(auth, token) == "ready"


async def test_a_token_that_no_public_key_can_verify_causes_no_fetch(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks, secret=make_secret())
    await nursery.start(auth.run)
    for kid in (None, "unknown"):
        forged = make_token(make_secret(), subject="alice", key_id=kid, clock=lambda: NOW)
        assert await code(auth, forged) == "token_invalid"
    assert len(provider.asked_at) == 1


async def test_keys_that_are_fetched_no_more_make_nobody_wait(
    provider: Provider, jwks: JWKS, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    async with trio.open_nursery() as nursery:
        await nursery.start(auth.run)
        nursery.cancel_scope.cancel()
    start = trio.current_time()
    assert await code(auth, token_of("ES256")) == "unavailable"
    assert trio.current_time() == start


async def test_all_who_wait_share_one_fetch(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.body, provider.delay = body_of(jwk_of("ES256")), 2.0
    codes: list[str] = []

    async def one(after: float) -> None:
        await trio.sleep(after)
        codes.append(await code(auth, token_of("ES256")))

    async with trio.open_nursery() as clients:
        for number in range(50):
            clients.start_soon(one, number / 50)
    assert codes == ["ready"] * 50
    assert len(provider.asked_at) == 2


async def test_who_waits_for_the_first_fetch_shares_it(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    provider.delay = 2.0
    auth = auth_for(jwks)
    nursery.start_soon(auth.run)
    await trio.sleep(1)
    assert await code(auth, token_of("RS256")) == "ready"
    assert len(provider.asked_at) == 1


async def test_waiting_has_a_deadline(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.delay = 1000.0
    start = trio.current_time()
    assert await code(auth, token_of("ES256")) == "unavailable"
    assert trio.current_time() - start == pytest.approx(5.0)


async def test_a_client_that_leaves_does_not_end_the_fetch_of_others(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    provider.body, provider.delay = body_of(jwk_of("ES256")), 2.0
    with trio.move_on_after(1) as scope:
        await code(auth, token_of("ES256"))
    assert scope.cancelled_caught
    assert await code(auth, token_of("ES256")) == "ready"
    assert len(provider.asked_at) == 2


async def test_a_known_kid_with_a_bad_signature_causes_no_fetch(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    auth = auth_for(jwks)
    await nursery.start(auth.run)
    token = token_of("RS256")
    assert await code(auth, token[:-8] + "AAAAAAAA") == "token_invalid"
    assert len(provider.asked_at) == 1


async def test_own_keys_count_beside_those_of_the_provider(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    secret = make_secret()
    auth = auth_for(jwks, secret=secret, keys=[Key(material=PRIVATE["EdDSA"].public_key())])
    provider.error = OSError("down")
    await nursery.start(auth.run)
    assert await code(auth, make_token(secret, subject="a", clock=lambda: NOW)) == "ready"
    assert await code(auth, token_of("EdDSA", kid="other")) == "ready"
    assert await code(auth, token_of("RS256")) == "unavailable"
    auth.rotate()
    assert await code(auth, token_of("EdDSA", kid="other")) == "unavailable"


async def test_without_run_nobody_waits(jwks: JWKS, autojump_clock: trio.abc.Clock) -> None:
    assert await code(auth_for(jwks), token_of("RS256")) == "unavailable"


async def test_it_runs_once_at_a_time_and_again_after_it_was_cancelled(
    provider: Provider, jwks: JWKS, nursery: trio.Nursery, autojump_clock: trio.abc.Clock
) -> None:
    for _ in range(2):
        async with trio.open_nursery() as inner:
            await inner.start(jwks.run)
            with pytest.raises(RuntimeError, match="already"):
                await jwks.run()
            inner.cancel_scope.cancel()
    provider.delay = 100.0
    with trio.move_on_after(1) as scope:
        await jwks.run()
    assert scope.cancelled_caught
    assert len(jwks.keys.keys) == 1


def test_symmetric_and_unusable_keys_of_a_set_are_skipped() -> None:
    private = jwt.get_algorithm_by_name("RS256").to_jwk(PRIVATE["RS256"], as_dict=True)
    found = parse_jwks(
        body_of(
            {"kty": "oct", "k": "c2VjcmV0LXRoYXQtaXMtbG9uZy1lbm91Z2gtdG8tYmUtZ29vZA", "kid": "s"},
            {"kty": "oct"},
            {"kty": "RSA"},
            {"kty": ["RSA"], "alg": {}},
            {"kty": "EC", "crv": "P-521", "x": 5},
            jwk_of("RS256", use="enc"),
            jwk_of("RS256", key_ops=["encrypt"]),
            jwk_of("RS256", alg="RSA-OAEP"),
            jwk_of("RS256", alg="ES256"),
            jwk_of("RS256", kid=7),
            private,
            "RSA",
            None,
            jwk_of("ES256", use="sig", alg="ES256"),
            jwk_of("EdDSA", kid=None, key_ops=["verify"]),
        )
    )
    assert [(key.kid, key.algorithms) for key in found.keys] == [
        ("ES256", ("ES256",)),
        (None, ("EdDSA", "Ed25519")),
    ]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["kty", "crv", "n", "e", "x", "y", "d", "alg", "use", "key_ops", "kid"]
            ),
            JSON | st.sampled_from(["RSA", "EC", "OKP", "P-256", "Ed25519", "AQAB", "AA"]),
        )
        | JSON
    )
)
def test_one_bad_key_never_costs_the_others(jwks: list[object]) -> None:
    found = parse_jwks(body_of(*jwks[:50], jwk_of("RS256")))
    assert found.keys[-1].kid == "RS256"


@given(st.binary() | st.builds(lambda value: json.dumps(value).encode(), JSON))
def test_any_body_gives_keys_or_a_value_error(body: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        parse_jwks(body)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "keys",
        "http://provider.example/",
        "http://127.0.0.1.example/",
        "https://",
        "https://user:password@provider.example/",
        "file:///etc/passwd",
        "ftp://127.0.0.1/",
    ],
)
def test_a_url_that_is_not_safe_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="https://") as caught:
        JWKS(url)
    assert "password" not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout": 0}, {"refresh_interval": -1}, {"cooldown": 0}])
def test_a_wrong_interval_is_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="more than 0"):
        JWKS(URL, **options)  # type: ignore[arg-type]


@pytest.fixture
def http_server() -> Iterator[Callable[[str], str]]:
    """The URL of a path on a real HTTP server."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b" " * 2_000_000 if self.path == "/large" else body_of(jwk_of("RS256"))
            self.send_response({"/redirect": 302, "/missing": 404}.get(self.path, 200))
            self.send_header("Location", "/keys")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.path == "/slow":
                released.wait(30)
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client has had enough
                super().handle()

    released = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield lambda path: f"http://127.0.0.1:{server.server_port}{path}"
    released.set()
    server.shutdown()
    server.server_close()
    thread.join()


async def test_keys_come_from_a_real_http_server(
    http_server: Callable[[str], str], nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1/")
    auth = JWTAuth(jwks=http_server("/keys"), clock=lambda: NOW)
    await nursery.start(auth.run)
    assert await code(auth, token_of("RS256")) == "ready"


@pytest.mark.parametrize("path", ["/large", "/redirect", "/missing"])
async def test_answers_that_are_large_redirected_or_errors_are_no_keys(
    path: str, http_server: Callable[[str], str], nursery: trio.Nursery
) -> None:
    jwks = JWKS(http_server(path))
    await nursery.start(jwks.run)
    assert (jwks.failing, jwks.keys.keys) == (True, ())


async def test_a_real_server_that_is_too_slow_is_given_up(
    http_server: Callable[[str], str], nursery: trio.Nursery
) -> None:
    jwks = JWKS(http_server("/slow"), timeout=0.05)
    with trio.fail_after(PATIENCE):
        await nursery.start(jwks.run)
    assert jwks.failing
