"""Headers and query parameters: mappings in which a name may have several values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping


class QueryParams(Mapping[str, str]):
    """The parameters of a query. ``params[name]`` is the first value of a name.

    Neither names nor values are in the repr, because clients put secrets into both.
    """

    __slots__ = ("_values",)

    def __init__(self, values: Mapping[str, str] | Iterable[tuple[str, str]] = ()) -> None:
        # Most names have one value, and thousands of connections keep these: no tuple of one.
        self._values: dict[str, str | tuple[str, ...]] = {}
        for name, value in values.items() if isinstance(values, Mapping) else values:
            key = self._key(name)
            known = self._values.get(key)
            if known is None:
                self._values[key] = value
            else:
                self._values[key] = (*((known,) if isinstance(known, str) else known), value)

    @staticmethod
    def _key(name: str) -> str:
        return name

    def getlist(self, name: str) -> list[str]:
        """Return all values of a name, in their order; empty if there is none."""
        values = self._values.get(self._key(name), ())
        return [values] if isinstance(values, str) else list(values)

    def multi_items(self) -> list[tuple[str, str]]:
        """Return all pairs of a name and a value."""
        return [(name, value) for name in self for value in self.getlist(name)]

    def __getitem__(self, name: str) -> str:
        values = self._values[self._key(name)]
        return values if isinstance(values, str) else values[0]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and self._key(name) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} with {len(self)} names>"


class Headers(QueryParams):
    """The headers of a request. Names are compared without case, and are listed in lower case."""

    __slots__ = ()

    @staticmethod
    def _key(name: str) -> str:
        return name.lower()
