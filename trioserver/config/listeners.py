"""Where a server listens, and how it keeps its certificates."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import attrs

from trioserver.config.fields import DAY, bounded, choice, flag, seconds, to_path, to_text


@attrs.frozen(kw_only=True)
class Listener:
    """The options of a listener, which `ListenConfig` and `Config` have in common."""

    host: str = attrs.field(
        default="127.0.0.1",
        metadata={
            "help": "An address, or a name that resolves to some. 0.0.0.0 is all of this machine's "
            "of IPv4, :: all that it has, of IPv6 and IPv4."
        },
    )
    port: int = attrs.field(
        default=8765,
        validator=bounded(0, 65535, whole=True),
        metadata={
            "unit": "",
            "low": 0,
            "high": 65535,
            "help": "The TCP port; 0 picks a free one.",
        },
    )
    unix_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={"help": "A Unix socket's file, in place of host and port. None: TCP."},
    )
    systemd_socket: str | None = attrs.field(
        default=None,
        converter=to_text,
        metadata={
            "help": "The name (FileDescriptorName=) of sockets that systemd has opened for this "
            "listener, in place of host, port and unix_path; * is all of them. None: none."
        },
    )
    reuse_port: bool = flag(
        False,
        "Let other processes of the same user listen on this port as well (SO_REUSEPORT), for a "
        "restart without a gap.",
    )
    proxy_protocol: bool = flag(
        False,
        "Each connection begins with a header of the PROXY protocol, version 1 or 2, from a proxy "
        "of proxy.trusted; one that does not is dropped.",
    )
    certificate: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "The certificate chain in PEM. With it and its key, TLS 1.2 and up. None: no "
            "TLS."
        },
    )
    key: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={"help": "The certificate's private key in PEM, unencrypted. None: no TLS."},
    )
    client_ca: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "Certificates of CAs in PEM: clients are asked for a certificate that one of "
            "them has issued. None: they are not asked."
        },
    )
    client_certificates: str = choice(
        "required",
        ("required", "optional"),
        "Where there is a client_ca: whether a client without a certificate is turned away in the "
        "TLS handshake. One with a bad certificate always is.",
    )


# What a Unix socket cannot have, and why.
_TCP_ONLY: Final = {
    "certificate": "TLS is for TCP",
    "systemd_socket": "systemd has bound its sockets already",
    "reuse_port": "a Unix socket's file has one owner",
}


@attrs.frozen(kw_only=True)
class ListenConfig(Listener):
    """Where to accept connections: TCP, TLS over TCP, a Unix socket, or one that systemd passes."""

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ValueError("certificate and key go together: set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs TLS: set certificate and key as well")
        if self.unix_path is None:
            return
        for name in ("certificate", "systemd_socket", "reuse_port"):
            if getattr(self, name):
                raise ValueError(f"unix_path and {name} exclude each other: {_TCP_ONLY[name]}")


@attrs.frozen(kw_only=True)
class TLSConfig:
    """How certificates are kept up to date."""

    check_interval: float = seconds(
        10.0,
        0.1,
        DAY,
        "How often it is looked whether the files of a certificate have changed; new handshakes "
        "then use the new ones.",
    )
