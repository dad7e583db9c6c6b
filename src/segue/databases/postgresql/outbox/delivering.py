"""Gives events to a consumer's handler in the order of their ids, and parks those that it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    Connection = psycopg.Connection[tuple[Any, ...]]

#: Of the session: what was brought and is not handled yet.
BATCH = sql.SQL("pg_temp.segue_outbox_batch")
MAKE_BATCH = """
create temp table if not exists segue_outbox_batch (
    id bigint, topic text, key text, payload jsonb, written_at timestamptz
) on commit delete rows
"""

# SQLSTATE classes of what is no event's fault: to be tried again as a whole, a moment later.
_PASSING = ("08", "40", "53", "55", "57", "58", "XX")

# An event whose key has one parked goes behind that, or the later one would be handled before the earlier one.
_BEHIND = """
with waiting as (
    delete from {batch} as b
    where exists (select from segue_outbox.parked as p where p.consumer = {consumer} and p.key = b.key)
    returning *
)
insert into segue_outbox.parked (consumer, id, topic, key, payload, written_at)
select {consumer}, id, topic, key, payload, written_at from waiting
on conflict do nothing
"""
_KEEP = """
insert into segue_outbox.inbox (consumer, id, topic, key, payload, written_at)
select {consumer}, id, topic, key, payload, written_at from {batch} order by id
on conflict do nothing
"""
_HANDLE = """
do $segue$
begin
    perform {handler}(b.id, b.topic, b.key, b.payload) from (select * from {batch} order by id) as b;
end
$segue$
"""

# One at a time, each in a subtransaction of its own; takes many times as long as the statement above.
_ONE_BY_ONE = """
do $segue$
declare
    segue_event record;
    segue_refused text[] := '{{}}';
    segue_state text;
    segue_message text;
begin
    for segue_event in select * from {batch} order by id loop
        if segue_event.key = any(segue_refused) then
            insert into segue_outbox.parked (consumer, id, topic, key, payload, written_at)
            values ({consumer}, segue_event.id, segue_event.topic, segue_event.key, segue_event.payload,
                segue_event.written_at);
            continue;
        end if;
        begin
            perform {handler}(segue_event.id, segue_event.topic, segue_event.key, segue_event.payload);
        exception when others then
            get stacked diagnostics segue_state = returned_sqlstate, segue_message = message_text;
            if left(segue_state, 2) = any({passing}) then
                raise;
            end if;
            insert into segue_outbox.parked (consumer, id, topic, key, payload, written_at, sqlstate, error, tries)
            values ({consumer}, segue_event.id, segue_event.topic, segue_event.key, segue_event.payload,
                segue_event.written_at, segue_state, segue_message, 1);
            segue_refused := segue_refused || segue_event.key;
        end;
    end loop;
end
$segue$
"""

_AGAIN = """
do $segue$
declare
    segue_event record;
    segue_refused text[] := '{{}}';
    segue_state text;
    segue_message text;
begin
    for segue_event in select * from segue_outbox.parked where consumer = {consumer} order by id for update loop
        continue when segue_event.key = any(segue_refused);
        begin
            perform {handler}(segue_event.id, segue_event.topic, segue_event.key, segue_event.payload);
            delete from segue_outbox.parked where consumer = {consumer} and id = segue_event.id;
        exception when others then
            get stacked diagnostics segue_state = returned_sqlstate, segue_message = message_text;
            if left(segue_state, 2) = any({passing}) then
                raise;
            end if;
            update segue_outbox.parked
            set sqlstate = segue_state, error = segue_message, tries = tries + 1
            where consumer = {consumer} and id = segue_event.id;
            segue_refused := segue_refused || segue_event.key;
        end;
    end loop;
end
$segue$
"""


def deliver(connection: Connection, consumer: str, handler: str | None) -> None:
    """Hand over the batch within the running transaction: to the handler, or without one to the inbox.

    Raises the driver's error for what is no event's fault.
    """
    words = {"batch": BATCH, "consumer": sql.Literal(consumer), "passing": sql.Literal(list(_PASSING))}
    if handler is None:
        _run(connection, _KEEP, words)
        return
    words["handler"] = _named(handler)
    _run(connection, _BEHIND, words)
    try:
        with connection.transaction():
            _run(connection, _HANDLE, words)
    except psycopg.Error as error:
        if connection.closed or is_passing(error):
            raise
        _run(connection, _ONE_BY_ONE, words)


def again(connection: Connection, consumer: str) -> tuple[int, int]:
    """Handle a consumer's parked events in one transaction; return how many were handled, and how many are left."""
    with connection.transaction():
        before = _parked(connection, consumer)
        row = connection.execute(
            "select handler from segue_outbox.subscription where name = %s for update", [consumer]
        ).fetchone()
        if row and row[0]:
            words = {
                "consumer": sql.Literal(consumer),
                "passing": sql.Literal(list(_PASSING)),
                "handler": _named(row[0]),
            }
            _run(connection, _AGAIN, words)
        left = _parked(connection, consumer)
    return before - left, left


def is_passing(error: psycopg.Error) -> bool:
    """Return whether an error may be gone a moment later, whatever the events are."""
    return error.sqlstate is None or error.sqlstate[:2] in _PASSING


def _run(connection: Connection, text: str, words: dict[str, sql.Composable]) -> None:
    # As text: a DO block takes no parameters, and a `%` in a literal is no placeholder.
    connection.execute(sql.SQL(text).format(**words).as_string(connection).encode())


def _named(handler: str) -> sql.Composable:
    """Return a function's name, which the server itself has written, for a statement."""
    return sql.SQL(handler)


def _parked(connection: Connection, consumer: str) -> int:
    row = connection.execute("select count(*) from segue_outbox.parked where consumer = %s", [consumer]).fetchone()
    return int(row[0]) if row else 0
