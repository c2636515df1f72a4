"""Names of keys and channels.

Of one topic all names have the same hash tag, so that they fall into one slot of a cluster. A topic
is chosen by users: ``%``, ``{`` and ``}`` in it are escaped, because a brace would end the tag.
"""

from __future__ import annotations

from typing import Final

_ESCAPES: Final = str.maketrans({"%": "%25", "{": "%7B", "}": "%7D"})


class Names:
    """The names below one prefix, which several servers with one Valkey have apart."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix.translate(_ESCAPES)

    def topic(self, topic: str) -> tuple[str, str, str]:
        """The list of a topic's events, the hash of its state, and its channel."""
        tag = topic.translate(_ESCAPES)
        prefix = self._prefix
        return f"{prefix}:s:{{{tag}}}", f"{prefix}:m:{{{tag}}}", f"{prefix}:c:{{{tag}}}"

    def publish_key(self, topic: str, key: str) -> str:
        """The position of the event that was published under a key."""
        tag = topic.translate(_ESCAPES)
        return f"{self._prefix}:i:{{{tag}}}{len(key)}:{key}"

    def node_channel(self, node: str) -> str:
        """The channel of one node, on which its own beats come back."""
        return f"{self._prefix}:b:{{{node}}}"

    @property
    def leases(self) -> str:
        """The sorted set of nodes, by the end of their leases."""
        return f"{self._prefix}:l:{{nodes}}"
