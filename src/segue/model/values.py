"""Values: never changed, compared by what is in them.

They are declared as dataclasses are. Those are made by code that is written and compiled at each start, which takes
half a millisecond for each class: more than most statements take to be judged.
"""

from __future__ import annotations

from typing import Any, ClassVar, Never, TypeVar, dataclass_transform

V = TypeVar("V", bound="Value")
_set = object.__setattr__


@dataclass_transform(frozen_default=True)
class Value:
    """A value; its fields are what its class and those above it annotate, with their defaults."""

    _fields: ClassVar[dict[str, Any]] = {}
    _required: ClassVar[frozenset[str]] = frozenset()

    def __init_subclass__(cls, *, kw_only: bool = False) -> None:
        own = cls.__annotations__
        cls._fields = {**cls._fields, **{name: cls.__dict__.get(name) for name in own}}
        cls._required = cls._required.union(name for name in own if name not in cls.__dict__)

    def __init__(self, *given: Any, **named: Any) -> None:
        fields = self._fields
        if given:
            named.update(zip(fields, given, strict=False))
        values = {**fields, **named}
        if len(values) != len(fields) or not self._required.issubset(named) or len(given) > len(fields):
            raise TypeError(f"{type(self).__name__} has the fields {', '.join(fields)}, not {', '.join(named)}")
        _set(self, "__dict__", values)

    def __setattr__(self, name: str, value: object) -> Never:
        raise AttributeError(f"a value is not changed: {type(self).__name__}.{name}")

    def __eq__(self, other: object) -> bool:
        return self.__dict__ == other.__dict__ if type(other) is type(self) else NotImplemented

    def __hash__(self) -> int:
        return hash(tuple(self.__dict__.values()))

    def __repr__(self) -> str:
        words = ", ".join(f"{name}={value!r}" for name, value in self.__dict__.items())
        return f"{type(self).__name__}({words})"


def replace(value: V, /, **fields: Any) -> V:
    """Return a value with some fields changed."""
    return type(value)(**{**value.__dict__, **fields})
