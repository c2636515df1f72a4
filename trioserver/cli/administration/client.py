"""The client of a server's administration API: one HTTP request, with the token in a header.

It uses the standard library's client because that follows no redirects and uses no proxy, so the
token is sent to the named server only.
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
    "token_missing": "set TRIOSERVER_ADMIN_TOKEN, or give --token-file",
    "token_expired": "get a new token",
    "forbidden": "the token needs the role that the server's options admin.role_claim and "
    "admin.role name",
}


@attrs.frozen(kw_only=True)
class AdminClient:
    """Sends requests to one server.

    ``timeout`` is in seconds, for each step of a request. If ``ca_file`` is None, the system's CA
    certificates are trusted.
    """

    url: str
    token: str | None = attrs.field(repr=False)
    timeout: float = 10.0
    ca_file: str | None = None
    allow_http: bool = False

    def get(self, path: str, parameters: Mapping[str, Any] | None = None) -> Any:
        """Send a GET and return the decoded response. ``path`` is quoted already.

        Raises `Failure`.
        """
        given = {name: value for name, value in (parameters or {}).items() if value is not None}
        return self._ask("GET", f"{path}?{urlencode(given)}" if given else path, None)

    def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send a POST with ``body`` as JSON, without fields that are None; return the response.

        Raises `Failure`.
        """
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
            raise self._unreachable(
                f"its certificate is not trusted: {error.verify_message}"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(
                getattr(error, "strerror", None) or type(error).__name__
            ) from None
        except ValueError:  # http.client, of a header; its text would quote the token
            raise Failure(
                "the token contains characters that an HTTP header cannot have, such as a line "
                "break; check the file or the variable that it comes from",
                Exit.CONFIGURATION,
            ) from None
        finally:
            connection.close()
        return _answer(response.status, content)

    def _unreachable(self, why: str) -> Failure:
        return Failure(
            f"cannot reach the server at {self.url}: {why}; check --url, and that it runs",
            Exit.UNREACHABLE,
        )

    def _connection(self) -> tuple[http.client.HTTPConnection, str]:
        parts = urlsplit(self.url)
        try:
            port = parts.port
        except ValueError:
            port = -1
        bad = parts.scheme not in ("http", "https") or not parts.hostname or port == -1
        if bad or parts.query or parts.fragment or parts.username is not None:
            raise Failure(
                "--url must be http:// or https:// with a host, without user, query and fragment: "
                "https://host:port",
                Exit.USAGE,
            )
        assert parts.hostname is not None
        prefix = quote(parts.path.rstrip("/"), safe="/%") or PREFIX
        if parts.scheme == "https":
            try:
                context = ssl.create_default_context(cafile=self.ca_file)
            except OSError as error:
                raise Failure(
                    f"--ca {self.ca_file} cannot be used: {error.strerror or error}; it must be a "
                    "PEM file with CA certificates",
                    Exit.CONFIGURATION,
                ) from None
            return http.client.HTTPSConnection(
                parts.hostname, port, timeout=self.timeout, context=context
            ), prefix
        if not (self.allow_http or parts.hostname == "localhost" or is_loopback(parts.hostname)):
            raise Failure(
                "http:// would send the token unencrypted to another machine; use https://, or "
                "allow it with --allow-http",
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
        raise Failure(
            f"the response is HTTP {status} and not from the administration API; check --url and "
            "the server's option http.admin"
        )
    code = str(error.get("code"))
    text = printable(f"{code}: {error.get('message')}")
    if code in _HINTS:
        text += f" ({_HINTS[code]})"
    raise Failure(text, Exit.DENIED if status in (401, 403) else Exit.FAILED)
