"""What a look at a database shows before anything is done to it."""

from __future__ import annotations

from dataclasses import dataclass

from segue.model.vocabulary import DataSize, Level

GIGABYTE = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Probe:
    """A database as it is now: who we are in it, how big and busy it is, what we may do."""

    server_version: str  # "15.8"
    version_num: int  # 150008
    database: str
    user: str
    size_bytes: int
    tps: float  # transactions per second of all sessions, over about a second
    is_superuser: bool
    can_create: bool  # CREATE on the database: Segue keeps its schema there
    wal_level: str
    read_only: bool  # a replica
    pooler: bool  # something between us and the server that may change the session under us

    @property
    def data_size(self) -> DataSize:
        """Return the size as the store's word: small below 1 GB, medium below 100 GB, large below 1 TB."""
        if self.size_bytes < GIGABYTE:
            return DataSize.SMALL
        if self.size_bytes < 100 * GIGABYTE:
            return DataSize.MEDIUM
        return DataSize.LARGE if self.size_bytes < 1000 * GIGABYTE else DataSize.XLARGE

    @property
    def traffic_level(self) -> Level:
        """Return the traffic as the store's word: low below 50 transactions/s, medium below 500, high below 5000."""
        if self.tps < 50:
            return Level.LOW
        if self.tps < 500:
            return Level.MEDIUM
        return Level.HIGH if self.tps < 5000 else Level.CRITICAL
