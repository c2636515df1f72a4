"""The paths of routes: text with parameters in braces, "/ws/rooms/{room_id}"."""

from __future__ import annotations

import re
from typing import Final

_PARAMETER: Final = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


class PathPattern:
    """Matches request paths. A parameter matches one or more characters other than a slash.

    Raises `ValueError` if ``path`` does not start with a slash, or if a parameter is malformed or
    occurs twice.
    """

    def __init__(self, path: str) -> None:
        if not path.startswith("/"):
            raise ValueError(f"invalid path {path!r}: it must start with '/'")
        names = _PARAMETER.findall(path)
        if len(set(names)) != len(names) or re.search(r"[{}]", _PARAMETER.sub("", path)):
            raise ValueError(
                f"invalid path {path!r}: write parameters as {{name}}, and use each name once"
            )
        parts = _PARAMETER.split(path)  # text and names in turn
        self._pattern = re.compile(
            "".join(
                f"(?P<{part}>[^/]+)" if index % 2 else re.escape(part)
                for index, part in enumerate(parts)
            )
        )
        self.parameters = frozenset(names)

    def match(self, path: str) -> dict[str, str] | None:
        """Return the path parameters, or None if ``path`` does not match."""
        match = self._pattern.fullmatch(path)
        return None if match is None else match.groupdict()
