"""Where settings come from, which wins, and what a wrong one is answered with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import pytest

from trioserver.cli.settings.errors import SettingsError
from trioserver.cli.settings.loading import Setting, Settings, load_settings
from trioserver.cli.settings.options import OPTIONS, options_of
from trioserver.config import Config, ListenConfig

pytestmark = pytest.mark.usefixtures("clean_environment")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "server.toml"


def origin(settings: Settings, path: str) -> str | None:
    (found,) = (s.origin for s in settings.settings if s.option.path == path)
    return found


def error_of(file: Path | None = None, arguments: dict[str, Any] | None = None) -> str:
    with pytest.raises(SettingsError) as caught:
        load_settings(file, arguments)
    assert caught.value.exit_code == 3
    return caught.value.message


# ------------------------------------------------------------------------------ sources


def test_without_any_source_all_is_default() -> None:
    settings = load_settings()
    assert settings.config == Config()
    assert {setting.origin for setting in settings.settings} == {None}
    assert settings.notes == ()


def test_the_file_has_nested_tables(file: Path) -> None:
    file.write_text("[trioserver]\nport = 1\n[trioserver.heartbeat]\ninterval = 15\n")
    settings = load_settings(file)
    assert settings.config.port == 1
    assert settings.config.heartbeat.interval == 15.0
    assert isinstance(settings.config.heartbeat.interval, float)
    assert origin(settings, "heartbeat.interval") == f"{file}: trioserver.heartbeat.interval"


def test_the_environment_wins_over_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[trioserver]\nport = 1\nhost = '::1'\n")
    monkeypatch.setenv("TRIOSERVER_PORT", "2")
    settings = load_settings(file)
    assert (settings.config.host, settings.config.port) == ("::1", 2)
    assert origin(settings, "port") == "TRIOSERVER_PORT"


def test_the_command_line_wins_over_all(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[trioserver]\nport = 1\n")
    monkeypatch.setenv("TRIOSERVER_PORT", "2")
    settings = load_settings(file, {"port": 3, "host": None})
    assert settings.config.port == 3
    assert origin(settings, "port") == "--port"
    assert origin(settings, "host") is None


def test_each_option_has_an_environment_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSERVER_CERTIFICATE", "/c")
    monkeypatch.setenv("TRIOSERVER_KEY", "/k")
    numbers = [option for option in OPTIONS if option.low is not None]
    for option in numbers:
        monkeypatch.setenv(option.variable, str(option.high))
    settings = load_settings()
    assert settings.config.certificate == Path("/c")
    for setting in settings.settings:
        if setting.option in numbers:
            assert setting.value == setting.option.high
            assert setting.origin == setting.option.variable


def test_paths_in_the_file_start_at_its_folder(file: Path) -> None:
    file.write_text('[trioserver]\ncertificate = "cert.pem"\nkey = "/etc/key.pem"\n')
    config = load_settings(file).config
    assert config.certificate == file.parent / "cert.pem"
    assert config.key == Path("/etc/key.pem")


def test_an_empty_path_is_none(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text('[trioserver]\nunix_path = "a.sock"\n')
    monkeypatch.setenv("TRIOSERVER_UNIX_PATH", "")
    assert load_settings(file).config.unix_path is None


def test_switches_choices_and_names_come_from_every_source(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text("[trioserver]\nreuse_port = true\nsystemd_socket = 'web'\n")
    monkeypatch.setenv("TRIOSERVER_CLIENT_CERTIFICATES", "optional")
    config = load_settings(file).config
    assert (config.reuse_port, config.systemd_socket) == (True, "web")
    assert config.client_certificates == "optional"
    monkeypatch.setenv("TRIOSERVER_REUSE_PORT", "false")
    monkeypatch.setenv("TRIOSERVER_SYSTEMD_SOCKET", "")
    config = load_settings(file, {"client_certificates": "required"}).config
    assert (config.reuse_port, config.systemd_socket) == (False, None)
    assert config.client_certificates == "required"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reuse_port = 1", "trioserver.reuse_port is 1; it must be true or false"),
        ("reuse_port = 'perhaps'", "trioserver.reuse_port is 'perhaps'; it must be true or false"),
        (
            "client_certificates = 'perhaps'",
            "trioserver.client_certificates is 'perhaps'; it must be required or optional",
        ),
        ("port = true", "trioserver.port is True; it must be a whole number"),
    ],
)
def test_a_wrong_switch_or_choice_says_what_is_allowed(file: Path, text: str, said: str) -> None:
    file.write_text(f"[trioserver]\n{text}\n")
    assert said in error_of(file)


def test_an_empty_file_is_fine(file: Path) -> None:
    file.write_text("")
    assert load_settings(file).config == Config()


# ------------------------------------------------------------------------------ lists, flags


def test_a_list_is_a_list_in_the_file_and_has_commas_elsewhere(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file.write_text('[trioserver.origins]\nallow = ["https://a.test", "https://*.b.test"]\n')
    monkeypatch.setenv("TRIOSERVER_PROXY_TRUSTED", "10.0.0.0/8, unix,")
    config = load_settings(file).config
    assert config.origins.allow == ("https://a.test", "https://*.b.test")
    assert config.proxy.trusted == ("10.0.0.0/8", "unix")
    monkeypatch.setenv("TRIOSERVER_ORIGINS_ALLOW", "")
    assert load_settings(file).config.origins.allow == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('allow = ["a.test"]', "'a.test' is not an origin: write a scheme"),
        ('allow = "https://a.test/"', "leave out the slash at the end"),
        ("allow = [1]", "it must be a list of origins"),
        ("allow = 1", "it must be a list of origins"),
    ],
)
def test_a_wrong_list_is_answered_with_what_is_wrong(file: Path, text: str, said: str) -> None:
    file.write_text(f"[trioserver.origins]\n{text}\n")
    message = error_of(file)
    assert message.startswith(f"{file}: trioserver.origins.allow")
    assert said in message


def test_a_word_that_is_none_of_those_allowed_is_answered_with_them(file: Path) -> None:
    file.write_text("[trioserver.proxy]\nheader = 'via'\n")
    assert error_of(file) == (
        f"{file}: trioserver.proxy.header is 'via'; it must be x-forwarded-for, forwarded or none"
    )


def test_a_flag_is_true_or_false(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text("[trioserver]\nproxy_protocol = true\nproxy.trusted = ['unix']\n")
    assert load_settings(file).config.proxy_protocol
    monkeypatch.setenv("TRIOSERVER_PROXY_PROTOCOL", "false")
    assert not load_settings(file).config.proxy_protocol
    assert load_settings(file, {"proxy_protocol": True}).config.proxy_protocol
    monkeypatch.setenv("TRIOSERVER_PROXY_PROTOCOL", "perhaps")
    assert error_of() == "TRIOSERVER_PROXY_PROTOCOL is 'perhaps'; it must be true or false"


def test_proxy_protocol_without_proxies_is_said(file: Path) -> None:
    file.write_text("[[trioserver.listen]]\nproxy_protocol = true\n")
    assert "set proxy.trusted to the networks of the proxies" in error_of(file)


# ------------------------------------------------------------------------------ listeners


def test_several_listeners_are_tables(file: Path) -> None:
    file.write_text(
        "[[trioserver.listen]]\nport = 1\n\n[[trioserver.listen]]\nunix_path = 'a.sock'\n"
    )
    settings = load_settings(file)
    assert settings.config.listeners == (
        ListenConfig(port=1),
        ListenConfig(unix_path=file.parent / "a.sock"),
    )
    assert settings.listen_origin == f"{file}: trioserver.listen"


def test_a_wrong_value_of_a_listener_is_named_with_its_place(file: Path) -> None:
    file.write_text("[[trioserver.listen]]\n[[trioserver.listen]]\nport = -1\n")
    assert error_of(file) == (
        f"{file}: trioserver.listen[1].port is -1; it must be a whole number from 0 to 65535"
    )


def test_an_unknown_key_of_a_listener_is_named_with_its_place(file: Path) -> None:
    file.write_text("[[trioserver.listen]]\nprt = 1\n")
    assert error_of(file) == (
        f"{file}: there is no option trioserver.listen[0].prt; did you mean port?"
    )


def test_listeners_that_make_no_sense_are_named_with_their_place(file: Path) -> None:
    file.write_text("[[trioserver.listen]]\nkey = 'k'\n")
    assert error_of(file) == (
        f"{file}: trioserver.listen[0]: key is set without certificate; set both, or neither"
    )


def test_a_port_that_the_listeners_would_hide_is_refused(file: Path) -> None:
    file.write_text("[[trioserver.listen]]\nport = 1\n")
    assert error_of(file, {"port": 2}).startswith("--port cannot be combined with ")


@pytest.mark.parametrize("value", ["3", "[3]", "{port = 1}"])
def test_listen_has_to_be_a_list_of_tables(file: Path, value: str) -> None:
    file.write_text(f"[trioserver]\nlisten = {value}\n")
    assert error_of(file) == (
        f"{file}: trioserver.listen must be a list of tables; write each as [[trioserver.listen]]"
    )


# ------------------------------------------------------------------------------ unknown names


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("prot = 1", "trioserver.prot; did you mean port or proxy?"),
        ("unix-path = '/a'", "trioserver.unix-path; did you mean unix_path?"),
        (
            "interval = 1",
            "trioserver.interval; did you mean tls.check_interval or heartbeat.interval?",
        ),
        ("heartbeet.interval = 1", "trioserver.heartbeet; did you mean heartbeat"),
        (
            "heartbeat.intervall = 1",
            "trioserver.heartbeat.intervall; did you mean heartbeat.interval",
        ),
        (
            "auth.zzzz = 1",
            "this table has: auth.authorization_timeout, auth.expiry_warning, auth.timeout",
        ),
        (
            "zzzzzzzz = 1",
            "trioserver.zzzzzzzz; this table has: admin, audit, auth, certificate, client_ca, ",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest(file: Path, text: str, hint: str) -> None:
    file.write_text(f"[trioserver]\n{text}\n")
    message = error_of(file)
    assert message.startswith(f"{file}: there is no option ")
    assert hint in message


def test_keys_outside_the_table_are_pointed_out(file: Path) -> None:
    file.write_text("port = 1\n")
    assert (
        error_of(file) == f"{file} has no table [trioserver]; write the options below [trioserver]"
    )


def test_a_value_in_place_of_a_table_is_pointed_out(file: Path) -> None:
    file.write_text("[trioserver]\nheartbeat = 30\n")
    assert error_of(file) == (
        f"{file}: trioserver.heartbeat is 30; it must be a table: [trioserver.heartbeat]"
    )


def test_an_unknown_variable_is_a_note_and_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSERVER_PROT", "1")
    monkeypatch.setenv("TRIOSERVER_TOKEN", "a token")
    monkeypatch.setenv("TRIOSERVER_SECRET", "a secret")
    assert load_settings().notes == (
        "the environment variable TRIOSERVER_PROT is not an option and has no effect; did you "
        "mean TRIOSERVER_PORT?",
    )


# ------------------------------------------------------------------------------ wrong values


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("port = 65536", "port is 65536; it must be a whole number from 0 to 65535"),
        ("port = 3.7", "port is 3.7; it must be a whole number"),
        ("port = true", "port is True; it must be a whole number"),
        ("port = []", "port is []; it must be a whole number"),
        ("port = inf", "port is inf; it must be a whole number"),
        ("port = nan", "port is nan; it must be a whole number"),
        ("host = 5", "host is 5; it must be text"),
        ("host = ''", "host is ''; it must be text that is not empty"),
        ("key = 5", "key is 5; it must be a path"),
        ("auth.timeout = nan", "auth.timeout is nan; it must be a number from 0.1 to 300 s"),
        ("auth.timeout = 'soon'", "auth.timeout is 'soon'; it must be a number"),
        (
            "limits.max_head_bytes = 1",
            "limits.max_head_bytes is 1; it must be a whole number from 512 to 1048576 bytes",
        ),
    ],
)
def test_a_wrong_value_in_the_file_is_named_by_its_key(file: Path, text: str, said: str) -> None:
    file.write_text(f"[trioserver]\n{text}\n")
    assert error_of(file).startswith(f"{file}: trioserver.{said}")


def test_a_wrong_value_in_the_environment_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIOSERVER_HEARTBEAT_INTERVAL", "often")
    assert error_of() == (
        "TRIOSERVER_HEARTBEAT_INTERVAL is 'often'; it must be a number from 0.1 to 86400 s"
    )


def test_a_wrong_value_on_the_command_line_is_named_by_its_option() -> None:
    assert error_of(arguments={"port": -1}).startswith("--port is -1; ")


def test_a_port_of_kubernetes_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSERVER_PORT", "tcp://10.0.0.1:80")
    assert "enableServiceLinks" in error_of()


def test_options_that_do_not_go_together_are_named_with_their_origin() -> None:
    assert error_of(arguments={"certificate": Path("c")}) == (
        "certificate is set without key; set both, or neither (certificate is from --certificate)"
    )


def test_an_option_before_a_comma_is_named_with_its_origin(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRIOSERVER_LIMITS_MAX_MESSAGE_BYTES", "1073741824")
    assert error_of().endswith(
        " (limits.max_message_bytes is from TRIOSERVER_LIMITS_MAX_MESSAGE_BYTES)"
    )


def test_every_bound_that_is_told_is_the_one_that_holds() -> None:
    for option in OPTIONS:
        if option.low is not None and option.high is not None:
            for good in (option.low, option.high):
                option.check(option.kind(good))
            for bad in (option.low - 1, option.high + 1):
                with pytest.raises(ValueError, match="number from"):
                    option.check(bad)


def test_every_option_says_what_it_is_for() -> None:
    for option in OPTIONS:
        assert option.help.endswith("."), option.path
        assert option.unit or option.low is None or option.path == "port"


# ------------------------------------------------------------------------------ files


@pytest.mark.parametrize(
    ("content", "said"),
    [(b"[trioserver", "Expected ']'"), (b"\xff", "utf-8"), (None, "No such file")],
    ids=["no TOML", "no UTF-8", "missing"],
)
def test_a_file_that_cannot_be_read_is_one_sentence(
    file: Path, content: bytes | None, said: str
) -> None:
    if content is not None:
        file.write_bytes(content)
    message = error_of(file)
    assert message.startswith(f"cannot read {file}: ")
    assert said in message
    assert "\n" not in message


def test_a_byte_order_mark_is_no_part_of_a_file(file: Path) -> None:
    file.write_bytes(b"\xef\xbb\xbf[trioserver]\r\nport = 1234\r\n")
    assert load_settings(file).config.port == 1234


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    assert error_of(tmp_path) == f"cannot read {tmp_path}: Is a directory"


# ------------------------------------------------------------------------------ secrets


@attrs.frozen(kw_only=True)
class WithSecret:
    password: str = attrs.field(default="", repr=False)


def test_a_secret_is_shown_to_nobody() -> None:
    (option,) = options_of(WithSecret)
    assert option.secret
    assert option.shown("hunter2") == "***"
    assert "hunter2" not in repr(Setting(option, "hunter2", None))


# ------------------------------------------------------------------------------ http


def test_the_listener_of_the_built_in_routes_is_a_table(file: Path) -> None:
    file.write_text(
        "[trioserver.http]\nhealth = false\n[trioserver.http.builtin_listen]\nport = 1\n"
    )
    http = load_settings(file).config.http
    assert (http.health, http.builtin_listen) == (False, ListenConfig(port=1))


def test_a_wrong_value_in_that_table_is_named_with_its_place(file: Path) -> None:
    file.write_text("[trioserver.http.builtin_listen]\nport = -1\n")
    assert error_of(file) == (
        f"{file}: trioserver.http.builtin_listen.port is -1; "
        "it must be a whole number from 0 to 65535"
    )
    file.write_text("[trioserver.http]\nbuiltin_listen = 1\n")
    assert error_of(file) == (
        f"{file}: trioserver.http.builtin_listen must be a table; write it as "
        "[trioserver.http.builtin_listen]"
    )


@pytest.mark.parametrize(("text", "value"), [("true", True), ("false", False), ("0", False)])
def test_a_switch_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, text: str, value: bool
) -> None:
    monkeypatch.setenv("TRIOSERVER_HTTP_ADMIN", text)
    assert load_settings().config.http.admin is value


@pytest.mark.parametrize("value", ["1", "'perhaps'", "0.5"])
def test_a_switch_is_true_or_false(file: Path, value: str) -> None:
    file.write_text(f"[trioserver.http]\nadmin = {value}\n")
    assert error_of(file).endswith(f"trioserver.http.admin is {value}; it must be true or false")


def test_a_text_that_may_be_none_is_none_where_it_is_empty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIOSERVER_AUDIT_DATABASE", "postgresql://root:hunter2secret@x/y")
    settings = load_settings()
    assert settings.config.audit.database == "postgresql://root:hunter2secret@x/y"
    assert "hunter2secret" not in repr(settings)
    monkeypatch.setenv("TRIOSERVER_AUDIT_DATABASE", "")
    assert load_settings().config.audit.database is None
