"""A real nginx in front of a real server, with the configuration of docs/deploy."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from tests.server.operations.processes import started, token, write_application
from tests.support.patience import PATIENCE
from tests.support.ports import free_port
from tests.support.tls import Files, files_in
from trioserver.client import connect

NGINX = shutil.which("nginx", path="/usr/sbin:/usr/local/sbin") or shutil.which("nginx")
DEPLOY = Path(__file__).parents[3] / "docs" / "deploy"

_MAIN = """
daemon off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/chat.conf;
}}
"""


@contextmanager
def nginx(folder: Path, files: Files, upstream: str) -> Iterator[int]:
    """The port of an nginx with the example's configuration, only addresses and files changed."""
    port = free_port()
    text = (DEPLOY / "nginx.conf").read_text()
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "127.0.0.1:8765": upstream,
        "/etc/chat/cert.pem": str(files.certificate),
        "/etc/chat/key.pem": str(files.key),
    }.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "chat.conf").write_text(text)
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder))
    assert NGINX is not None
    with subprocess.Popen(
        [
            NGINX,
            "-p",
            str(folder),
            "-e",
            str(folder / "error.log"),
            "-c",
            str(folder / "nginx.conf"),
        ]
    ) as process:
        try:
            yield port
        finally:
            process.terminate()


@pytest.mark.skipif(NGINX is None, reason="needs nginx: install the package nginx")
async def test_a_client_talks_through_nginx_over_tls(tmp_path: Path) -> None:
    write_application(tmp_path)
    files = files_in(tmp_path)
    with (
        started(tmp_path, "--port", "0") as server,
        nginx(tmp_path, files, server.url.removeprefix("ws://")) as port,
    ):
        with trio.fail_after(PATIENCE):
            async with connect(
                f"wss://127.0.0.1:{port}/ws", token=token(), ssl_context=files.trusting()
            ) as client:
                assert [await client.request("echo", n) for n in range(100)] == list(range(100))
