"""Other options, keys and certificates while the server runs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
import structlog

from tests.support.app import serving
from tests.support.client import Closed
from tests.support.running import running
from tests.support.tls import files_in
from trioserver import (
    Application,
    Component,
    Config,
    HeartbeatConfig,
    LimitsConfig,
    ListenConfig,
    ListenError,
    Refusal,
    Server,
    User,
)
from trioserver.server.operations import reloading as module
from trioserver.server.operations.reloading import compare

# ------------------------------------------------------------------------------ comparing


def test_what_is_different_is_named_with_both_values() -> None:
    old = Config(limits=LimitsConfig(max_connections=10))
    new = Config(limits=LimitsConfig(max_connections=20), heartbeat=HeartbeatConfig(interval=5.0))
    outcome = compare(old, new)
    assert outcome.changed == {
        "limits.max_connections": "10 -> 20",
        "heartbeat.interval": "30.0 -> 5.0",
    }
    assert outcome.needs_restart == ()


def test_the_same_is_no_change() -> None:
    outcome = compare(Config(), Config())
    assert (outcome.changed, outcome.needs_restart) == ({}, ())


def test_where_to_listen_needs_a_restart() -> None:
    assert compare(Config(), Config(port=1, reuse_port=True)).needs_restart == (
        "port",
        "reuse_port",
    )
    listed = Config(listen=(ListenConfig(port=1), ListenConfig(port=2)))
    assert compare(listed, Config(listen=(ListenConfig(port=1),))).needs_restart == ("listen",)
    other = Config(listen=(ListenConfig(port=1), ListenConfig(port=3)))
    assert compare(listed, other).needs_restart == ("listen[1].port",)
    assert compare(Config(), listed).needs_restart == ("listen",)


def test_the_files_of_tls_do_not_but_tls_itself_does() -> None:
    def config(certificate: str | None, **more: Any) -> Config:
        key = None if certificate is None else "k"
        where = ListenConfig(certificate=certificate, key=key, **more)
        return Config(listen=(ListenConfig(port=1), where))

    assert compare(config("a"), config("b")).changed == {"listen[1].certificate": "a -> b"}
    started = compare(config(None), config("b"))
    assert started.needs_restart == ("listen[1].certificate", "listen[1].key")
    moved = compare(config("a"), config("b", port=9))
    assert moved.needs_restart == ("listen[1].port", "listen[1].certificate")


def test_a_secret_is_masked() -> None:
    @attrs.frozen
    class Secretive:
        password: str = attrs.field(repr=False)

    differences = module._differences(Secretive("one"), Secretive("two"))
    outcome = {name: secret for name, _, _, secret in differences}
    assert outcome == {"password": True}


# ------------------------------------------------------------------------------ reconfiguring


async def test_new_connections_get_the_new_options_and_open_ones_keep_theirs(
    autojump_clock: object,
) -> None:
    async with serving(Config(port=0)) as harness:
        before = await harness.ready()
        outcome = await harness.server.reconfigure(
            Config(port=0, limits=LimitsConfig(max_message_bytes=200))
        )
        assert outcome.changed == {"limits.max_message_bytes": "1048576 -> 200"}
        after = await harness.connect()
        ready = await after.authenticate()
        assert ready["limits"]["max_message_bytes"] == 200
        assert (await before.request("echo", {"text": "x" * 1000}))["type"] == "ack"
        await after.send(type="echo", id=1, data={"text": "x" * 1000})
        assert (await after.receive_end())[1] == Closed(1009, "message_too_big")


async def test_caps_count_at_once(autojump_clock: object) -> None:
    async with serving(Config(port=0)) as harness:
        silent = [await harness.connect() for _ in range(3)]
        good = await harness.ready()
        limits = LimitsConfig(max_connections=1, max_unauthenticated=1)
        await harness.server.reconfigure(Config(port=0, limits=limits))
        for client in silent[:2]:
            assert (await client.receive_end())[1] == Closed(1013, "server_busy")
        assert (await good.request("note"))["type"] == "ack"
        assert (await (await harness.connect()).receive_end())[1] == Closed(1013, "server_busy")
        await harness.server.reconfigure(Config(port=0))
        await harness.ready()


async def test_a_certificate_that_will_not_do_changes_nothing(tmp_path: Path) -> None:
    files = files_in(tmp_path)
    config = Config(port=0, certificate=files.certificate, key=files.key)
    async with running(config) as server:
        bad = attrs.evolve(
            config, certificate=tmp_path / "nothing.pem", limits=LimitsConfig(max_connections=1)
        )
        with pytest.raises(ListenError, match="cannot use the certificate"):
            await server.reconfigure(bad)
        assert server.config == config
        assert server._context.admission.limiter.limits.max_connections == 10_000


# ------------------------------------------------------------------------------ reloading


class Keys(Component):
    """An authenticator with a file, as it were."""

    def __init__(self) -> None:
        self.name = "old"
        self.wrong: Exception | None = None

    async def __call__(self, credentials: Any, request: Any) -> User | Refusal:
        return User(id=self.name)

    def reload(self) -> list[str]:
        if self.wrong is not None:
            raise self.wrong
        self.name = "new"
        return ["keys"]


async def reload(
    keys: Keys, load_config: Callable[[], Config] | None = None
) -> tuple[Server, bool, list[dict[str, Any]]]:
    app = Application(auth=keys)
    app.route("/one")
    app.route("/two")
    with structlog.testing.capture_logs() as logs:
        async with running(Config(port=0), app, load_config=load_config) as server:
            logs.clear()
            return server, await server.reload(), [dict(each) for each in logs]
    raise AssertionError


async def test_configuration_and_keys_are_read_again_and_said() -> None:
    keys, config = Keys(), Config(port=0, limits=LimitsConfig(max_connections=7))
    server, good, logs = await reload(keys, lambda: config)
    assert good
    assert server.config == config
    assert keys.name == "new"
    assert logs == [
        {
            "event": "reconfigured",
            "log_level": "info",
            "changed": {"limits.max_connections": "10000 -> 7"},
            "needs_restart": [],
        },
        {
            "event": "keys_reloaded",
            "log_level": "info",
            "authenticator": "Keys",
            "changed": ["keys"],
        },
    ]


async def test_a_bad_configuration_is_refused_and_keys_are_read_all_the_same() -> None:
    def load_config() -> Config:
        return Config(port=70_000)

    keys = Keys()
    server, good, logs = await reload(keys, load_config)
    assert not good
    assert server.config == Config(port=0)
    assert keys.name == "new"
    assert [each["event"] for each in logs] == ["reload_failed", "keys_reloaded"]
    assert "port is 70000" in logs[0]["reason"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("secret_file is empty"), "secret_file is empty"),
        (KeyError("s3cret"), "KeyError"),
    ],
)
async def test_bad_keys_are_refused_and_only_what_is_for_reading_is_said(
    error: Exception, said: str
) -> None:
    keys = Keys()
    keys.wrong = error
    _, good, logs = await reload(keys)
    assert not good
    assert keys.name == "old"
    assert [each["event"] for each in logs] == ["reconfigured", "reload_failed"]
    assert logs[1]["reason"] == said


async def test_a_reload_never_ends_what_is_connected(autojump_clock: object) -> None:
    async with serving(Config(port=0)) as harness:
        client = await harness.ready()
        assert await harness.server.reload()
        assert (await client.request("note"))["type"] == "ack"
