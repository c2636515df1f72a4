"""Asks a server's administration: one request over HTTP, with the token in a header.

The standard library's client: it follows no redirect and asks no proxy, so that the token goes to
the server that was named, and nowhere else.
"""

from __future__ import annotations

import http.client
import json
import ssl
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import attrs

from trioserver.auth.loopback import is_loopback
from trioserver.cli.output.terminal import Exit, Failure
from trioserver.logs.printable import printable

PREFIX: Final = "/api/v1/admin"

_MAX_BYTES: Final = 16 * 1024 * 1024
_HINTS: Final = {
    "token_missing": "give --token-file, or set TRIOSERVER_ADMIN_TOKEN",
    "token_expired": "get a new token",
    "forbidden": "the token needs the role of the options admin.role_claim and admin.role",
}


@attrs.frozen(kw_only=True)
class AdminClient:
    """``timeout`` is in seconds, for each step of a request; ``ca_file`` None is the system's."""

    url: str
    token: str | None = attrs.field(repr=False)
    timeout: float = 10.0
    ca_file: str | None = None
    allow_http: bool = False

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """The answer to a GET. ``path`` is quoted already. Raises `Failure`."""
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """The answer to a POST of JSON; fields that are None are left out. Raises `Failure`."""
        given = {name: value for name, value in body.items() if value is not None}
        return self._ask("POST", path, json.dumps(given).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        connection, prefix = self._connection()
        headers = {"Accept": "application/json"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, prefix + path, body=body, headers=headers)
            response = connection.getresponse()
            content = response.read(_MAX_BYTES)
        except ssl.SSLCertVerificationError as error:
            raise _unreachable(f"its certificate: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            raise _unreachable(getattr(error, "strerror", None) or type(error).__name__) from None
        except ValueError:  # http.client, of a header; its text would quote the token
            raise Failure(
                "the token is not of a form that a header takes", Exit.CONFIGURATION
            ) from None
        finally:
            connection.close()
        return _answer(response.status, content)

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        bad = parts.scheme not in ("http", "https") or not parts.hostname or port == -1
        if bad or parts.query or parts.fragment or parts.username is not None:
            raise Failure("--url looks like https://host:port", Exit.USAGE)
        assert parts.hostname is not None
        prefix = quote(parts.path.rstrip("/"), safe="/%") or PREFIX
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:
                raise Failure(f"cannot read {self.ca_file}: {error}", Exit.CONFIGURATION) from None
            return http.client.HTTPSConnection(
                parts.hostname, port, timeout=self.timeout, context=context
            ), prefix
        if not (self.allow_http or parts.hostname == "localhost" or is_loopback(parts.hostname)):
            raise Failure(
                "over http:// everybody on the way reads the token: use https://, or say "
                "--allow-http",
                Exit.USAGE,
            )
        return http.client.HTTPConnection(parts.hostname, port, timeout=self.timeout), prefix


def _answer(status: int, content: bytes) -> Any:
    try:
        answer = json.loads(content)
    except ValueError:
        answer = None
    if 200 <= status < 300 and answer is not None:
        return answer
    error = answer.get("error") if isinstance(answer, dict) else None
    if not isinstance(error, dict):
        hint = "is this the server, and is its administration turned on?"
        raise Failure(f"the server answered {status}; {hint}")
    code = str(error.get("code"))
    text = printable(f"{code}: {error.get('message')}")
    if code in _HINTS:
        text += f" ({_HINTS[code]})"
    raise Failure(text, Exit.DENIED if status in (401, 403) else Exit.FAILED)


def _unreachable(why: str) -> Failure:
    return Failure(f"cannot reach the server: {why}", Exit.UNREACHABLE)
