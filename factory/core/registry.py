"""A registry: one name, one object; a duplicate raises, an unknown name lists the known ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from factory.core.errors import unknown_name

T = TypeVar("T")


class Registry(Generic[T]):
    """Named objects of one kind ("operator", "transport", "data set")."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._items: dict[str, T] = {}

    def add(self, name: str, item: T) -> T:
        """Register ``item`` under ``name``; a second item of that name is a programming error."""
        if name in self._items:
            raise ValueError(f"duplicate {self.kind} {name!r}")
        self._items[name] = item
        return item

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator form of :meth:`add`."""
        return lambda item: self.add(name, item)

    def get(self, name: str, where: str = "") -> T:
        """The item called ``name``; raises InputError naming the known ones otherwise."""
        try:
            return self._items[name]
        except KeyError:
            raise unknown_name(self.kind, name, self._items, where) from None

    def names(self) -> list[str]:
        """All registered names, in order of registration."""
        return list(self._items)

    def __contains__(self, name: object) -> bool:
        return name in self._items

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)
