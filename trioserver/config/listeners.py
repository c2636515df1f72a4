"""Where the server listens, and how its TLS certificates are kept up to date."""

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
            "help": "Address to listen on, or a name that resolves to addresses. 0.0.0.0 is all "
            "IPv4 addresses of this machine, :: all IPv6 and IPv4 addresses."
        },
    )
    port: int = attrs.field(
        default=8765,
        validator=bounded(0, 65535, whole=True),
        metadata={
            "unit": "",
            "low": 0,
            "high": 65535,
            "help": "TCP port to listen on; 0 picks a free one.",
        },
    )
    unix_path: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "File of a Unix socket to listen on, in place of host and port. If not set, "
            "the listener uses TCP."
        },
    )
    systemd_socket: str | None = attrs.field(
        default=None,
        converter=to_text,
        metadata={
            "help": "Name (FileDescriptorName=) of the sockets passed by systemd to listen on, in "
            "place of host, port and unix_path; * takes all of them. If not set, the server opens "
            "its own socket."
        },
    )
    reuse_port: bool = flag(
        False,
        "Let other processes of the same user listen on the same port (SO_REUSEPORT), for a "
        "restart without an interruption.",
    )
    proxy_protocol: bool = flag(
        False,
        "Require each connection to begin with a PROXY protocol header, version 1 or 2, from a "
        "proxy of proxy.trusted. A connection without one is dropped.",
    )
    certificate: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "PEM file with the TLS certificate chain; key must be set as well. With both, "
            "the listener accepts TLS 1.2 and newer. If not set, it does not use TLS."
        },
    )
    key: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "PEM file with the certificate's private key, unencrypted; certificate must "
            "be set as well. If not set, the listener does not use TLS."
        },
    )
    client_ca: Path | None = attrs.field(
        default=None,
        converter=to_path,
        metadata={
            "help": "PEM file with CA certificates. Clients are asked for a certificate that one "
            "of them has issued; client_certificates says whether it is required. If not set, "
            "no client certificate is requested."
        },
    )
    client_certificates: str = choice(
        "required",
        ("required", "optional"),
        "With client_ca, whether the TLS handshake fails for a client without a certificate. It "
        "always fails for a client with an invalid one.",
    )


_TCP_ONLY: Final = {
    "certificate": "TLS needs a TCP listener",
    "systemd_socket": "the sockets of systemd are already bound",
    "reuse_port": "only one process can own the file of a Unix socket",
}
"""Options that a Unix socket cannot have, and why."""


@attrs.frozen(kw_only=True)
class ListenConfig(Listener):
    """One listener: TCP, TLS over TCP, a Unix socket, or a socket passed by systemd."""

    def __attrs_post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            given, missing = ("certificate", "key") if self.certificate else ("key", "certificate")
            raise ValueError(f"{given} is set without {missing}; set both, or neither")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("client_ca needs TLS; set certificate and key as well")
        if self.unix_path is None:
            return
        for name, reason in _TCP_ONLY.items():
            if getattr(self, name):
                raise ValueError(
                    f"unix_path and {name} cannot be combined, because {reason}; remove one of them"
                )


@attrs.frozen(kw_only=True)
class TLSConfig:
    """How the server notices that a certificate was renewed."""

    check_interval: float = seconds(
        10.0,
        0.1,
        DAY,
        "Time between two checks whether the certificate files have changed. If they have, new TLS "
        "handshakes use the new certificate; open connections are kept.",
    )
