"""Tablespaces on disks that are soon full, and can be made larger."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fix_servers import short_folder

from segue.embedded import Cluster
from segue.embedded.account import server_account


class SmallSpace:
    """A tablespace of a few megabytes."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self.name = name

    def grow(self, megabytes: int) -> None:
        """Make the disk larger."""
        command = ["mount", "-o", f"remount,size={megabytes}m", self._folder]
        subprocess.run(command, check=True, capture_output=True)


@pytest.fixture
def small_space(server: Cluster) -> Iterator[Callable[..., SmallSpace]]:
    """Make tablespaces of so many megabytes, on the tests' server or on another one; empty them before the end."""
    made: list[tuple[Cluster, Path, str]] = []

    def make(megabytes: int, on: Cluster = server) -> SmallSpace:
        folder = short_folder()
        options = f"size={megabytes}m,mode=711"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=False, capture_output=True
        )
        if done.returncode:
            pytest.skip("needs the right to mount")
        name = f"small_{len(made)}"
        made.append((on, folder, name))
        server_account().own(folder, 0o700)
        with psycopg.connect(on.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE TABLESPACE {name} LOCATION '{folder}'".encode())
        return SmallSpace(folder, name)

    yield make
    for on, folder, name in made:
        with psycopg.connect(on.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP TABLESPACE IF EXISTS {name}".encode())
        subprocess.run(["umount", folder], check=True)
        folder.rmdir()
