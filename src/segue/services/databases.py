"""A database by the word that a person has for it: an environment's name, or a URL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from segue.settings import Settings
    from segue.store import Store


@dataclass(frozen=True, slots=True)
class Located:
    """A database; `name` is what people call it, without a password."""

    url: str
    name: str


def is_url(word: str) -> bool:
    """Return whether a word is a URL, or libpq's `key=value` form, rather than an environment's name."""
    return "://" in word or "=" in word


def locate(store: Store | None, settings: Settings, word: str) -> Located:
    """Find a database. The store is needed for names alone.

    Raises NotFound for an unknown name, UsageError for a URL with a password in it, which others could read.
    """
    from segue.services import environments

    if is_url(word):
        return Located(environments.given_url(url=word, stdin=None, variable=None, environ={}), word)
    assert store is not None  # noqa: S101 - whoever has a name opens the store
    with store.session() as session:
        return Located(environments.resolve(session, settings, word)[1], word)
