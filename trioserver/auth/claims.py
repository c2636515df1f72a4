"""Reads claims in the forms that identity providers use: nested, a list, or text with spaces."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_SCOPES: Final = ("scope", "scp")
"""RFC 8693, section 4.2, and the name that Microsoft and Okta use."""


def claim_at(claims: Mapping[str, Any], path: str) -> Any:
    """Return the claim of this name, or the one that a dotted path leads to; else None.

    ``realm_access.roles`` is the ``roles`` inside of ``realm_access``. A claim whose own name has
    dots, such as ``https://example.com/roles``, comes first.
    """
    if path in claims:
        return claims[path]
    value: Any = claims
    for name in path.split("."):
        if not isinstance(value, Mapping) or name not in value:
            return None
        value = value[name]
    return value


def texts_at(claims: Mapping[str, Any], path: str) -> frozenset[str]:
    """Return the strings of the claim at ``path``: those of a list, or the string that it is.

    Only scopes are split at spaces (RFC 6749, section 3.3): a role may be called "Database admin".
    """
    value = claim_at(claims, path)
    if isinstance(value, str):
        return frozenset(value.split()) if path in _SCOPES else frozenset((value,))
    if isinstance(value, list | tuple | set | frozenset):
        return frozenset(entry for entry in value if isinstance(entry, str))
    return frozenset()


def scopes_of(claims: Mapping[str, Any]) -> frozenset[str]:
    """Return the scopes that a token grants, under either of their names."""
    return frozenset().union(*(texts_at(claims, name) for name in _SCOPES))
