"""Promise 9: what could not be made sure of stops the run, with the reason, before it touches anything."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from fix_targets import Open, run_sql
from fix_team import PLAN, Team, closed
from psycopg import conninfo

from segue.engine.control import MustWait
from segue.errors import Blocked, ConfigurationError, Differences, DriftFound, SegueError
from segue.services import gates, watching
from segue.store import open_store


def test_run_without_its_approval_touches_nothing(team: Team) -> None:
    team.add()
    with pytest.raises(MustWait, match="nobody has approved it"):
        team.go()
    assert team.untouched()


def test_plan_that_was_changed_after_its_approval_touches_nothing_until_it_is_approved_again(team: Team) -> None:
    team.add()
    team.approved()
    team.add(PLAN.replace("A note", "Another note"))
    with pytest.raises(MustWait, match="changed after bob approved it") as caught:
        team.go()
    assert "segue approve add-note" in caught.value.hint
    assert team.untouched()
    assert "approvals approval-refused" in team.ledger("approvals")
    team.approved()
    team.go()
    assert team.filled_once()


def test_plan_that_was_changed_in_the_store_after_its_approval_touches_nothing(team: Team) -> None:
    team.add()
    team.approved()
    changed = "UPDATE segue_store.migration_plans SET document = jsonb_set(document, '{description}', '\"x\"')"
    run_sql(str(team.settings.store), changed)
    with pytest.raises(Blocked, match="somebody changed it in the store"):
        team.go()
    assert team.untouched()


def test_approvals_that_cannot_be_read_touch_nothing(team: Team) -> None:
    team.add()
    team.approved()
    run_sql(str(team.settings.store), "ALTER TABLE segue_store.approvals RENAME TO elsewhere")
    with pytest.raises(SegueError, match="approvals"):
        team.go()
    assert team.untouched()


@pytest.mark.parametrize("window", ["", "whenever it suits", "Sunday 02:00-04:00"])
def test_window_that_cannot_be_read_is_closed(team: Team, window: str) -> None:
    team.environment("test")
    team.add()
    team.window(window)
    with pytest.raises(Blocked, match='the window of environment "production" cannot be read'):
        team.go()
    assert team.untouched()


def test_window_that_cannot_be_read_any_more_stops_a_run(team: Team) -> None:
    team.environment("test", maintenance_window=closed())
    team.add()
    with pytest.raises(MustWait):
        team.go()
    with open_store(team.settings) as store:
        with store.session() as session:
            running = gates.RunGates(store, watching.find(session, None).id)
        team.window("whenever it suits")
        with pytest.raises(Blocked, match="cannot be read"):
            running.boundary()


def test_drift_stops_a_run_with_what_changed(team: Team) -> None:
    team.environment("test")
    team.add()
    team.go()
    run_sql(team.url, "CREATE TABLE stranger (id int)")
    team.add(PLAN.replace("note", "memo").replace("plan: add-memo", "plan: add-note").replace("1.0.0", "2.0.0"))
    with pytest.raises(DriftFound) as caught:
        team.go()
    assert any("stranger" in line for line in caught.value.details)
    assert not team.value("SELECT count(*) FROM pg_attribute WHERE attname = 'memo'")


CHECKED = """\
plan: add-note
version: 1.0.0
description: A check before a change
steps:
  - name: all-have-remarks
    kind: validate
    query: SELECT count(*) FROM customers WHERE remark IS NULL
    scalar: 0
  - name: add
    kind: sql
    needs: [all-have-remarks]
    sql: ALTER TABLE customers ADD COLUMN note text
    reverse: ALTER TABLE customers DROP COLUMN note
"""


def test_check_that_fails_keeps_what_needs_it_from_running(team: Team) -> None:
    team.environment("test")
    team.add(CHECKED)
    with pytest.raises(Differences):
        team.go()
    assert team.untouched()


def test_check_that_cannot_be_made_keeps_what_needs_it_from_running(team: Team) -> None:
    team.environment("test")
    team.add(CHECKED.replace("WHERE remark IS NULL", "WHERE missing IS NULL"))
    with pytest.raises(SegueError, match="missing"):
        team.go()
    assert team.untouched()


@pytest.fixture
def disguised() -> Iterator[Callable[[str, bytes], str]]:
    """Give a function that returns a URL under which a server says that it is of another version, just as long."""
    listeners: list[socket.socket] = []

    def disguise(url: str, version: bytes) -> str:
        parts = conninfo.conninfo_to_dict(url)
        door = str(Path(str(parts["host"])) / f".s.PGSQL.{parts.get('port', 5432)}")
        listener = socket.create_server(("127.0.0.1", 0))
        listeners.append(listener)
        with psycopg.connect(url) as connection:
            true = b"server_version\0" + str(connection.info.parameter_status("server_version")).encode()

        def forward(source: socket.socket, sink: socket.socket) -> None:
            with contextlib.suppress(OSError):
                while data := source.recv(65536):
                    sink.sendall(data.replace(true, b"server_version\0" + version.ljust(len(true) - 15, b"0")))
                sink.shutdown(socket.SHUT_RDWR)

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    client, _ = listener.accept()
                    server = socket.socket(socket.AF_UNIX)
                    server.connect(door)
                    for pair in ((client, server), (server, client)):
                        threading.Thread(target=forward, args=pair, daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        port = listener.getsockname()[1]
        return conninfo.make_conninfo(url, host="127.0.0.1", port=port, sslmode="disable")

    yield disguise
    for listener in listeners:
        listener.close()


@pytest.mark.parametrize("version", [b"99.", b"12."])
def test_server_of_a_version_that_nobody_knows_is_refused(
    database: str, open_target: Open, disguised: Callable[[str, bytes], str], version: bytes
) -> None:
    with pytest.raises(ConfigurationError, match=f"PostgreSQL {version[:2].decode()}, which Segue does not know"):
        open_target(disguised(database, version))
    with psycopg.connect(database) as connection:
        assert connection.execute("SELECT to_regnamespace('segue')").fetchone() == (None,)
