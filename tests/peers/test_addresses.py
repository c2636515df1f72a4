"""What a peer counts as, and who is trusted."""

from __future__ import annotations

import pytest

from trioserver.peers.addresses import Networks, address_key, host_of, plain


@pytest.mark.parametrize(
    ("peer", "host", "key"),
    [
        ("192.0.2.1:5000", "192.0.2.1", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("[2001:db8:1:2:3:4:5:6]:5000", "2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2:ffff::", "2001:db8:1:2:ffff::", "2001:db8:1:2::/64"),
        ("2001:DB8:1:2::9", "2001:DB8:1:2::9", "2001:db8:1:2::/64"),
        ("[::ffff:192.0.2.1]:5000", "::ffff:192.0.2.1", "192.0.2.1"),
        ("::1", "::1", "::/64"),
        ("_hidden", "_hidden", "_hidden"),
        ("unix", "unix", ""),
        ("", "", ""),
    ],
)
def test_what_a_peer_counts_as(peer: str, host: str, key: str) -> None:
    assert host_of(peer) == host
    assert address_key(peer) == key


@pytest.mark.parametrize(
    ("peer", "shown"),
    [
        ("[::ffff:192.0.2.1]:5000", "192.0.2.1:5000"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]:5000", "[2001:db8::1]:5000"),
        ("192.0.2.1:5000", "192.0.2.1:5000"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_ipv4_that_is_mapped_into_ipv6_is_shown_as_ipv4(peer: str, shown: str) -> None:
    assert plain(peer) == shown


def test_networks_hold_addresses_of_either_version_and_the_unix_socket() -> None:
    networks = Networks(["10.0.0.0/8", "192.0.2.7", "fd00::/8", "unix"])
    inside = ["10.1.2.3:99", "192.0.2.7", "[fd00::1]:5", "[::ffff:10.0.0.1]:5", "unix"]
    assert all(peer in networks for peer in inside)
    assert all(peer not in networks for peer in ("11.0.0.1:1", "[fe80::1]:5", "", "_hidden"))


def test_no_networks_hold_nobody() -> None:
    assert not Networks([])
    assert "127.0.0.1:1" not in Networks([])
    assert "unix" not in Networks(["0.0.0.0/0"])


@pytest.mark.parametrize("entry", ["", "localhost", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "*"])
def test_what_is_no_network_is_said(entry: str) -> None:
    with pytest.raises(ValueError, match="is not a network: write"):
        Networks([entry])
