"""Before a move's first row, and when its copy begins anew: nothing is emptied that the move has not copied itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import psycopg
import pytest
from fix_spaces import SmallSpace
from fix_standbys import Server
from fix_targets import rows, run_sql, value
from fix_wandering import LATER, PATIENCE, TABLES, Moved, made

from segue.databases.postgresql.moving import live
from segue.databases.postgresql.moving.mover import PostgresMover
from segue.errors import Blocked, InvalidInput, SegueError, StepFailed
from segue.model.moves import MoveStarted


@pytest.fixture
def moved(moving_server: Server) -> Iterator[Moved]:
    """Give a move whose target has the tables with their keys."""
    with made(moving_server, moving_server) as found:
        run_sql(found.pair.target.url, LATER)
        yield found
        PostgresMover(found.pair.id, found.pair.source.url, found.pair.target.url).cancel(PATIENCE, found.notes.append)


def start(moved: Moved, target: str | None = None) -> MoveStarted:
    mover = PostgresMover(moved.pair.id, moved.pair.source.url, target or moved.pair.target.url)
    return mover.start(TABLES, workers=2, patience=PATIENCE, note=moved.notes.append)


@pytest.fixture
def cut_off(moved: Moved, monkeypatch: pytest.MonkeyPatch) -> Moved:
    """Give a move that ended right after its copy."""

    def die(*_: object) -> None:
        raise StepFailed("cut off")

    with monkeypatch.context() as patch:
        patch.setattr(live, "follow", die)
        with pytest.raises(StepFailed, match="cut off"):
            start(moved)
    return moved


def test_a_copy_that_was_cut_off_is_made_anew(cut_off: Moved) -> None:
    assert start(cut_off).copied
    cut_off.level()
    assert cut_off.content(cut_off.pair.source) == cut_off.content(cut_off.pair.target)


def test_rows_that_somebody_put_into_the_target_are_not_emptied(cut_off: Moved) -> None:
    url = cut_off.pair.target.url
    run_sql(url, "INSERT INTO item (id, code) VALUES (99999, 'somebody''s')")
    with pytest.raises(InvalidInput, match="rows that this move has not copied"):
        start(cut_off)
    assert value(url, "SELECT count(*) FROM item") == 401
    run_sql(url, "DELETE FROM item WHERE id = 99999")
    start(cut_off)


def test_a_move_of_the_same_name_to_another_database_empties_nothing_there(
    cut_off: Moved, moving_server: Server
) -> None:
    other = moving_server.database()
    run_sql(other, "CREATE TABLE item (LIKE pg_class)")
    with pytest.raises(Blocked, match="a move of this name with another database"):
        start(cut_off, other)


def test_a_full_disk_is_said_and_the_copy_made_anew_when_there_is_room(
    moved: Moved, moving_server: Server, small_space: Callable[..., SmallSpace]
) -> None:
    space = small_space(1, moving_server.cluster)
    run_sql(moved.pair.source.url, "UPDATE item SET note = repeat(md5(id::text), 120)")
    run_sql(moved.pair.target.url, f"ALTER TABLE item SET TABLESPACE {space.name}")
    with pytest.raises(SegueError, match="No space left on device"):
        start(moved)
    space.grow(50)
    assert start(moved).copied
    moved.level()
    assert moved.content(moved.pair.source) == moved.content(moved.pair.target)
    run_sql(moved.pair.target.url, "ALTER TABLE item SET TABLESPACE pg_default")


def test_a_filled_target_is_refused(moved: Moved) -> None:
    run_sql(moved.pair.target.url, "INSERT INTO item (id, code) VALUES (99999, 'somebody''s')")
    with pytest.raises(InvalidInput, match="rows that this move has not copied"):
        start(moved)
    assert value(moved.pair.target.url, "SELECT count(*) FROM item") == 1


def test_columns_of_other_types_are_refused_before_anything_is_made(moved: Moved) -> None:
    run_sql(
        moved.pair.target.url,
        "ALTER TABLE item ALTER n TYPE real, DROP note, ADD must int NOT NULL",
        "ALTER TABLE line ALTER quantity TYPE numeric(10, 2)",
    )
    with pytest.raises(InvalidInput) as refused:
        start(moved)
    assert refused.value.details == [
        '"n" of public.item is integer, and real on the target',
        'public.item has no column "note" on the target',
        'public.item needs a value of "must" on the target, which the source does not have',
        '"quantity" of public.line is numeric, and numeric(10,2) on the target',
    ]
    assert moved.remains() == []


def test_what_the_target_refuses_is_told_of_the_target(moved: Moved) -> None:
    run_sql(moved.pair.target.url, "ALTER TABLE item ADD CHECK (n < 100)")
    with pytest.raises(SegueError) as refused:
        start(moved)
    assert "target" in str(refused.value)
    assert "item_n_check" in str(refused.value)


def test_values_whose_bytes_are_numbers_of_a_database_go_as_text(moved: Moved) -> None:
    for side in (moved.pair.source, moved.pair.target):
        run_sql(
            side.url,
            *(["CREATE TABLE first (n int)"] if side is moved.pair.target else []),
            "CREATE TABLE mine (n int)",
            "CREATE DOMAIN a_table AS regclass",
            "ALTER TABLE item ADD is_of a_table, ADD are_of regclass[]",
        )
    run_sql(moved.pair.source.url, "UPDATE item SET is_of = 'mine', are_of = '{mine}' WHERE id = 1")
    start(moved)
    query = "SELECT is_of::text, are_of::text FROM item WHERE id = 1"
    assert rows(moved.pair.target.url, query) == [("mine", "{mine}")]
    with psycopg.connect(moved.pair.target.url) as connection:
        assert connection.execute("SELECT is_of::oid = 'mine'::regclass FROM item WHERE id = 1").fetchone() == (True,)
