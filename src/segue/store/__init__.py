"""The store: Segue's own PostgreSQL database, which holds what is intended and what has been done."""

from segue.store.opening import Store, open_store

__all__ = ["Store", "open_store"]
