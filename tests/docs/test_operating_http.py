"""The blocks of the operators' guide on HTTP, tried on a real server."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support.http import site
from tests.support.markdown import blocks
from trioserver.cli.settings.loading import load_settings

OPERATING = Path("docs/operating.md")


async def test_the_probes_are_there() -> None:
    urls = re.findall(r"curl http://127\.0\.0\.1:8765(/\S*)", "".join(blocks(OPERATING, "sh")))
    assert {"/healthz", "/readyz"} <= set(urls)
    async with site() as place:
        http = await place.open()
        for url in urls:
            assert (await http.get(url)).status == 200


def test_the_listener_of_its_own_is_a_configuration(tmp_path: Path) -> None:
    (block,) = (text for text in blocks(OPERATING, "toml") if "builtin_listen" in text)
    file = tmp_path / "server.toml"
    file.write_text(block)
    http = load_settings(file).config.http
    assert not http.protocol
    assert http.builtin_listen is not None
    assert http.builtin_listen.port == 9100
