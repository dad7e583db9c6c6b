"""Read-only copies: level with their home for good, wherever it moves, closed to writers, and nothing left of them."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest
from fix_standbys import Server
from fix_targets import run_sql, until, value
from fix_wandering import LATER, PATIENCE, ROGUE, SCHEMA, TABLES, Moved, Seen, made, traffic

from segue.databases.postgresql.moving import live
from segue.databases.postgresql.moving.mirror import PostgresMirror
from segue.databases.postgresql.moving.support import Pair, Side
from segue.errors import Blocked


@pytest.fixture(params=["18-18", "15-18"])
def any_pair(request: pytest.FixtureRequest) -> Iterator[Moved]:
    """Give a move between two databases of one new server, and one between servers of two versions."""
    target: Server = request.getfixturevalue("moving_server")
    source: Server = target if request.param == "18-18" else request.getfixturevalue("moving_debian_server")
    with made(source, target) as moved:
        yield moved


def test_a_copy_follows_its_home_wherever_that_moves(any_pair: Moved, moving_server: Server) -> None:
    reader = moving_server.database()
    run_sql(reader, SCHEMA, LATER)
    old, new = any_pair.pair.source, any_pair.pair.target
    name = f"r{any_pair.pair.id}"
    from_old, from_new = (PostgresMirror(name, side.url, reader, side.name) for side in (old, new))
    with traffic(any_pair, seed=11) as seen:
        from_old.start(TABLES, workers=2, patience=PATIENCE, note=any_pair.notes.append)
        any_pair.begin()
        for _ in range(3):
            _more(seen)
            any_pair.turn()
            seen.live = any_pair.open
            assert "home is source" in _refused(reader, "25006", "segue_read_only")
        with pytest.raises(Blocked, match="read-only") as refused:
            live.complete(any_pair.pair, PATIENCE, any_pair.notes.append)
        assert refused.value.details == [f"segue move rehome {name}"]
        _more(seen)
        from_old.leave(PATIENCE, any_pair.notes.append)
        _more(seen)
        from_new.start(TABLES, workers=2, patience=PATIENCE, note=any_pair.notes.append)
        live.complete(any_pair.pair, PATIENCE, any_pair.notes.append)
        _more(seen)
    until(lambda: from_new.look().caught_up)
    assert seen.errors == []
    assert seen.wanted() == any_pair.content(new) == any_pair.content(Side("target", reader))
    assert "home is target" in _refused(reader, "25006", "segue_read_only")
    run_sql(new.url, "TRUNCATE part")
    until(lambda: not value(reader, "SELECT count(*) FROM part"))
    from_new.cancel(PATIENCE, any_pair.notes.append)
    assert [
        row for pair in (Pair(name, old, new), Pair(name, new, Side("target", reader))) for row in Moved(pair).remains()
    ] == []
    run_sql(reader, ROGUE[1])


def _more(seen: Seen) -> None:
    mark = seen.acknowledged
    until(lambda: seen.acknowledged > mark + 30)


def _refused(url: str, state: str, constraint: str) -> str:
    """Try writes that must all be refused, also by one who skips triggers; return the hint."""
    hint = ""
    with psycopg.connect(url) as connection:
        for before in ("SELECT 1", "SET LOCAL session_replication_role = replica"):
            for query in ROGUE:
                connection.execute(before.encode())
                with pytest.raises(psycopg.Error) as refused:
                    connection.execute(query.encode())
                connection.rollback()
                assert (refused.value.sqlstate, refused.value.diag.constraint_name) == (state, constraint), query
                hint = refused.value.diag.message_hint or ""
    return hint
