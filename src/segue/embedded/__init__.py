"""A PostgreSQL server of Segue's own: made, started, shared and stopped without anybody's help."""

from segue.embedded.cluster import Cluster
from segue.embedded.wheel import binaries

__all__ = ["Cluster", "binaries"]
