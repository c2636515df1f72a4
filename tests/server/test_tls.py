"""TLS as a scanner sees it, and as its files change."""

from __future__ import annotations

import shutil
import socket
import ssl
import warnings
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import structlog
import trio
import trustme

from tests.support.client import Client
from tests.support.patience import PATIENCE
from tests.support.running import running
from tests.support.tls import Files, files_in
from trioserver import (
    Application,
    Config,
    LimitsConfig,
    ListenConfig,
    ListenError,
    Server,
    TLSConfig,
    User,
    serve,
)
from trioserver.auth import ClientCertificateAuth, Credentials
from trioserver.client import ConnectionLostError, ConnectRejectedError, connect
from trioserver.websocket.request import Request
from trioserver.websocket.tls import TLSFiles, tls_context


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return files_in(tmp_path)


def config_of(files: Files, **more: object) -> Config:
    options: dict[str, object] = {
        "port": 0,
        "certificate": files.certificate,
        "key": files.key,
        "tls": TLSConfig(check_interval=0.1),
    }
    return Config(**(options | more))  # type: ignore[arg-type]


def handshake(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A finished handshake. Raises `OSError` where it is refused."""
    plain = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
    try:
        return context.wrap_socket(plain, server_hostname="127.0.0.1")
    except BaseException:
        plain.close()
        raise


async def any_user(credentials: Credentials, request: Request) -> User:
    return User(id="alice")


def port_of(server: Server) -> int:
    port = server.addresses[0].port
    assert port is not None
    return port


async def until_logged(logs: list[structlog.typing.EventDict], event: str, **more: str) -> None:
    wanted = {"event": event, **more}
    with trio.fail_after(PATIENCE):
        while not any(wanted.items() <= each.items() for each in logs):  # noqa: ASYNC110 -- of files
            await trio.sleep(0.01)


def permissive(files: Files) -> ssl.SSLContext:
    """A client that does everything its library can, however old."""
    context = files.trusting()
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.options &= ~ssl.OP_NO_COMPRESSION
    context.options |= getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    return context


# ------------------------------------------------------------------------------ a scanner's view


@pytest.mark.parametrize("version", ["TLSv1", "TLSv1_1", "TLSv1_2", "TLSv1_3"])
async def test_versions_before_1_2_are_refused(files: Files, version: str) -> None:
    context = permissive(files)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = ssl.TLSVersion[version]
    with structlog.testing.capture_logs() as logs:
        async with running(config_of(files)) as server:
            shake = partial(trio.to_thread.run_sync, handshake, port_of(server), context)
            if version in ("TLSv1_2", "TLSv1_3"):
                with await shake() as connection:
                    assert connection.version() == version.replace("_", ".")
            else:
                with pytest.raises(ssl.SSLError, match="ALERT_PROTOCOL_VERSION"):
                    await shake()
                await until_logged(logs, "tls_handshake_failed", reason="UNSUPPORTED_PROTOCOL")


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
async def test_of_all_ciphers_of_tls_1_2_only_modern_ones_are_taken(
    files: Files, kind: str
) -> None:
    files.issue(key_type=trustme.KeyType[kind])
    context = permissive(files)
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    names = [each["name"] for each in context.get_ciphers() if "1.3" not in each["protocol"]]
    assert {"ECDHE-RSA-AES128-SHA256", "AES128-SHA", "AECDH-NULL-SHA"} <= set(names)

    def taken(port: int) -> set[str]:
        """As scanners do: offer all but those that were chosen before, until none is."""
        found: set[str] = set()
        while True:
            left = [name for name in names if name not in found]
            context.set_ciphers(":".join(left) + ":@SECLEVEL=0")
            try:
                with handshake(port, context) as connection:
                    cipher = connection.cipher()
            except OSError:
                return found
            assert cipher is not None
            found.add(cipher[0])

    async with running(config_of(files)) as server:
        ciphers = await trio.to_thread.run_sync(taken, port_of(server))
    assert ciphers == {
        f"ECDHE-{kind}-{rest}"
        for rest in ("AES128-GCM-SHA256", "AES256-GCM-SHA384", "CHACHA20-POLY1305")
    }


async def test_nothing_is_compressed_and_http_1_1_is_agreed_on(files: Files) -> None:
    context = permissive(files)
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with running(config_of(files)) as server:
        with await trio.to_thread.run_sync(handshake, port_of(server), context) as connection:
            assert connection.compression() is None
            assert connection.selected_alpn_protocol() == "http/1.1"
        (listener,) = server._listeners.listeners
        assert listener.tls is not None
        assert listener.tls.options & ssl.OP_NO_COMPRESSION


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the command openssl")
async def test_renegotiation_is_refused(files: Files) -> None:
    async with running(config_of(files)) as server:
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port_of(server)}", "-tls1_2"]
        with trio.fail_after(PATIENCE):
            done = await trio.run_process(
                command,
                stdin=b"R\n",
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    said = (done.stdout + done.stderr).decode()
    assert "RENEGOTIATING" in said
    assert "no renegotiation" in said
    assert "Secure Renegotiation IS supported" in said


async def test_who_never_begins_the_handshake_is_dropped_at_the_deadline_of_the_head(
    files: Files,
) -> None:
    limits = LimitsConfig(head_timeout=0.1)
    async with running(config_of(files, limits=limits)) as server:
        silent = await trio.open_tcp_stream("127.0.0.1", port_of(server))
        async with silent:
            with trio.fail_after(PATIENCE):
                assert await silent.receive_some() == b""
        with trio.fail_after(PATIENCE):
            while server.statistics().open:  # noqa: ASYNC110 -- the kernel says when
                await trio.sleep(0.01)


# ------------------------------------------------------------------------------ new files


def serial_of(port: int, context: ssl.SSLContext) -> str:
    with handshake(port, context) as connection:
        certificate = connection.getpeercert()
        assert certificate is not None
        return str(certificate["serialNumber"])


async def test_new_files_count_for_new_handshakes_and_drop_nobody(files: Files) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(config_of(files)) as server:
            url = f"wss://127.0.0.1:{port_of(server)}/ws/1"
            async with connect(url, token="alice", ssl_context=files.trusting()) as client:
                look = partial(serial_of, port_of(server), files.trusting())
                before = await trio.to_thread.run_sync(look)
                files.issue()
                await until_logged(logs, "certificate_reloaded")
                assert await trio.to_thread.run_sync(look) != before
                assert await client.request("echo", {"text": "still here"})
                assert server.statistics().accepted == 3


async def test_a_bad_pair_is_refused_once_and_the_old_one_stays(files: Files) -> None:
    with structlog.testing.capture_logs() as logs:
        async with running(config_of(files)) as server:
            look = partial(serial_of, port_of(server), files.trusting())
            before = await trio.to_thread.run_sync(look)
            files.key.write_text("this is no key")
            await until_logged(logs, "certificate_reload_failed")
            assert await trio.to_thread.run_sync(look) == before
            await server._listeners.reload_changed_certificates()
            refused = [each for each in logs if each["event"] == "certificate_reload_failed"]
            assert len(refused) == 1
            assert str(files.key) in refused[0]["error"]
            files.certificate.unlink()  # gone altogether
            await server._listeners.reload_changed_certificates()
            assert await trio.to_thread.run_sync(look) == before
            files.issue()
            await until_logged(logs, "certificate_reloaded")
            assert await trio.to_thread.run_sync(look) != before


# ------------------------------------------------------------------------------ client certificates


@asynccontextmanager
async def asking(files: Files, auth: ClientCertificateAuth, how: str) -> AsyncIterator[str]:
    """A server that asks for certificates; where to connect to."""
    app = Application(auth=auth)
    route = app.route("/ws")

    @route.on("whoami")
    def whoami(connection: object) -> str:
        user: User = connection.user  # type: ignore[attr-defined]
        return user.id

    config = config_of(files, client_ca=files.ca, client_certificates=how)
    async with running(config, app) as server:
        yield f"wss://127.0.0.1:{port_of(server)}/ws"


async def test_a_client_certificate_is_enough(files: Files) -> None:
    context = files.client("ignored@example.org", common_name="alice")
    async with (
        asking(files, ClientCertificateAuth(), "required") as url,
        connect(url, ssl_context=context) as client,
    ):
        assert await client.request("whoami") == "alice"
        assert client.ready is not None
        assert client.ready.expires_at is not None


@pytest.mark.parametrize("version", ["TLSv1_2", "TLSv1_3"])
@pytest.mark.parametrize(
    ("fault", "alert"),
    [
        ("none", "certificate required"),
        ("expired", "certificate expired"),
        ("unknown CA", "unknown ca"),
    ],
)
async def test_required_means_that_no_handshake_ends_without_a_good_one(
    files: Files, fault: str, alert: str, version: str
) -> None:
    contexts = {
        "none": files.trusting(),
        "expired": files.client("a@example.org", common_name="alice", expired=True),
        "unknown CA": files.client("a@example.org", common_name="alice", by=trustme.CA()),
    }
    context = contexts[fault]
    context.maximum_version = ssl.TLSVersion[version]
    async with asking(files, ClientCertificateAuth(), "required") as url:
        # It is told at once, and not when the time for getting ready is over.
        with trio.fail_after(PATIENCE), pytest.raises(ConnectionLostError) as raised:
            async with connect(
                url, ssl_context=context, reconnect=False, ready_timeout=10 * PATIENCE
            ):
                pytest.fail("entered")
    reason = raised.value.reason
    if version == "TLSv1_2" and fault == "none":  # TLS 1.2 has no alert of its own for it
        assert (reason.code, reason.retry) == ("connection_lost", "backoff")
        assert reason.message == "The server refuses TLS: handshake failure."
    else:
        assert (reason.code, reason.retry) == ("certificate_refused", "never")
        assert reason.message == f"The server refuses this client's certificate: {alert}."


@pytest.mark.parametrize("fault", ["expired", "unknown CA"])
async def test_optional_lets_nobody_in_with_a_bad_one(files: Files, fault: str) -> None:
    by = trustme.CA() if fault == "unknown CA" else None
    context = files.client("a@example.org", by=by, expired=fault == "expired")
    context.maximum_version = ssl.TLSVersion.TLSv1_2  # in 1.3 a client hears of it later
    with structlog.testing.capture_logs() as logs:
        async with asking(files, ClientCertificateAuth(), "optional") as url:
            port = int(url.split(":")[2].split("/")[0])
            alert = "UNKNOWN_CA" if fault == "unknown CA" else "CERTIFICATE_EXPIRED"
            with pytest.raises(ssl.SSLError, match=f"ALERT_{alert}"):
                await trio.to_thread.run_sync(handshake, port, context)
            await until_logged(logs, "tls_handshake_failed", reason="CERTIFICATE_VERIFY_FAILED")


async def test_a_tls_stream_of_whoever_embeds_the_server_is_secure_too(files: Files) -> None:
    seen: list[Request] = []

    async def authenticate(credentials: Credentials, request: Request) -> User:
        seen.append(request)
        return await any_user(credentials, request)

    app = Application(auth=authenticate)
    app.route("/ws", authorize=None)
    asking = tls_context(TLSFiles(certificate=files.certificate, key=files.key, client_ca=files.ca))
    context = files.client("a@example.org", common_name="alice")
    async with running(Config(port=0), app) as server, trio.open_nursery() as nursery:
        ours, theirs = map(trio.SocketStream, trio.socket.socketpair())
        embedded = trio.SSLStream(theirs, asking, server_side=True, https_compatible=True)
        nursery.start_soon(server.serve_stream, embedded)
        client = Client(trio.SSLStream(ours, context, server_hostname="localhost"))
        await client.open("/ws")
        await client.authenticate("token")
        nursery.cancel_scope.cancel()
    (request,) = seen
    assert request.secure
    assert request.remote == "unix"
    assert request.certificate is not None
    assert request.certificate.subject["commonName"] == ("alice",)
    await trio.aclose_forcefully(ours)


async def test_noise_on_an_open_connection_ends_that_one_alone(files: Files) -> None:
    app = Application(auth=any_user)
    app.route("/ws", authorize=None)
    async with running(config_of(files), app) as server:
        streams = [
            await trio.open_ssl_over_tcp_stream(
                "127.0.0.1", port_of(server), ssl_context=files.trusting()
            )
            for _ in range(2)
        ]
        noisy, quiet = map(Client, streams)
        for client in (noisy, quiet):
            await client.open("/ws")
            await client.authenticate("token")
        with structlog.testing.capture_logs() as logs:
            await streams[0].transport_stream.send_all(b"this is no record")
            await until_logged(logs, "connection_closed", reason="client_disconnected")
        assert [each["event"] for each in logs] == ["connection_closed"]
        await quiet.send(type="ping")
        assert (await quiet.receive())["type"] == "pong"
        for stream in streams:
            await trio.aclose_forcefully(stream)


async def test_optional_and_none_is_a_missing_token(files: Files) -> None:
    async with asking(files, ClientCertificateAuth(), "optional") as url:
        with pytest.raises(ConnectRejectedError) as refused:
            async with connect(url, ssl_context=files.trusting()):
                pass
    assert refused.value.code == "token_missing"


async def test_of_another_issuer_is_an_invalid_token(files: Files, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    auth = ClientCertificateAuth(ca=other)
    async with asking(files, auth, "required") as url:
        with pytest.raises(ConnectRejectedError) as refused:
            async with connect(url, ssl_context=files.client("a@b.org", common_name="alice")):
                pass
    assert refused.value.code == "token_invalid"


async def test_another_client_ca_counts_after_reconfiguring(files: Files, tmp_path: Path) -> None:
    other = trustme.CA()
    path = tmp_path / "other.pem"
    other.cert_pem.write_to_path(str(path))
    app = Application(auth=ClientCertificateAuth(user="email"))
    app.route("/ws")
    config = config_of(files, client_ca=files.ca)
    async with running(config, app) as server:
        url = f"wss://127.0.0.1:{port_of(server)}/ws"
        outcome = await server.reconfigure(config_of(files, client_ca=path))
        assert outcome.changed == {"client_ca": f"{files.ca} -> {path}"}
        async with connect(url, ssl_context=files.client("a@b.org", by=other)) as client:
            assert client.ready is not None
            assert client.ready.user["id"] == "a@b.org"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"client_ca": "ca.pem"}, "client_ca needs TLS"),
        ({"client_certificates": "perhaps"}, "client_certificates is 'perhaps'"),
        ({"unix_path": "a", "reuse_port": True}, "unix_path and reuse_port cannot be combined"),
        ({"unix_path": "a", "systemd_socket": "web"}, "unix_path and systemd_socket cannot"),
        ({"reuse_port": 1}, "reuse_port is 1; it must be true or false"),
    ],
)
def test_options_that_do_not_go_together(options: dict[str, object], said: str) -> None:
    kinds: tuple[Any, ...] = (ListenConfig, Config)
    for kind in kinds:
        with pytest.raises(ValueError, match=said):
            kind(**options)


@pytest.mark.parametrize("content", [None, "", "nothing", "a leaf"])
async def test_a_client_ca_that_will_not_do_stops_the_start(
    files: Files, content: str | None
) -> None:
    path = files.folder / "clients.pem"
    if content is not None:
        path.write_text(files.certificate.read_text() if content == "a leaf" else content)
    app = Application(auth=ClientCertificateAuth())
    with pytest.raises(ListenError, match="cannot use the client_ca"):
        await serve(app, config_of(files, client_ca=path), handle_signals=False)
