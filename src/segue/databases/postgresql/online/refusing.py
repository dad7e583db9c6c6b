"""Finds the rows that a destination refuses, puts the others, and keeps those as conflicts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.errors import StepFailed

if TYPE_CHECKING:
    import psycopg

    from segue.databases.postgresql.online.wording import Listing

    Connection = psycopg.Connection[tuple[Any, ...]]

#: What a row can be refused for: its values, the rules, what a cast or an index entry cannot hold.
REFUSALS = ("22", "23", "42", "54", "P0")
# Without the right to write, no row fits; that is no fault of the rows.
NO_REFUSALS = ("42501",)
#: With more of them than this the new definition does not fit the data, and nobody would mend them one by one.
MOST_CONFLICTS = 10_000

# Halves first the lower keys, so that of rows that exclude each other the one with the lowest key stays. Each attempt
# is a subtransaction; what is counted survives those that are rolled back.
_SIFT = """
declare
    segue_todo bigint[];
    segue_low bigint;
    segue_high bigint;
    segue_middle bigint;
    segue_put bigint;
    segue_some bigint;
    segue_rows bigint := 0;
    segue_refused bigint := 0;
    segue_state text;
    segue_message text;
    segue_detail text;
    segue_rule text;
    segue_column text;
begin
    select array[1, max(segue_n)] into segue_todo from {table} having max(segue_n) is not null;
    while cardinality(segue_todo) > 0 loop
        segue_low := segue_todo[cardinality(segue_todo) - 1];
        segue_high := segue_todo[cardinality(segue_todo)];
        segue_todo := trim_array(segue_todo, 2);
        begin
            segue_put := 0;
            {put}
            segue_rows := segue_rows + segue_put;
        exception
            when data_exception or integrity_constraint_violation or syntax_error_or_access_rule_violation
                or program_limit_exceeded or plpgsql_error then
            get stacked diagnostics segue_state = returned_sqlstate, segue_message = message_text,
                segue_detail = pg_exception_detail, segue_rule = constraint_name, segue_column = column_name;
            if segue_state = any({never}) then
                raise;
            end if;
            if segue_low < segue_high then
                segue_middle := (segue_low + segue_high) / 2;
                segue_todo := segue_todo || array[segue_middle + 1, segue_high, segue_low, segue_middle];
            else
                if segue_state in ('23505', '23503', '23P01') then
                    segue_message := concat_ws(': ', segue_message, nullif(segue_detail, ''));
                end if;
                execute {conflict}
                using segue_low, segue_state, segue_message, coalesce(nullif(segue_rule, ''), segue_column, '');
                segue_refused := segue_refused + 1;
                if segue_refused > {most} then
                    raise 'too many conflicts' using errcode = '54000';
                end if;
            end if;
        end;
    end loop;
    perform set_config('segue.rows', segue_rows::text, true), set_config('segue.refused', segue_refused::text, true);
end
"""

_CONFLICT = """
insert into segue.conflict (change, member, direction, key, sqlstate, message, rule, row, kept)
select {change}, {member}, {direction}, {key}, $2, $3, $4, pg_catalog.to_jsonb(segue_row), {kept}
from {source} as segue_row where {holds}
on conflict (change, member, direction, key) do update set sqlstate = excluded.sqlstate, message = excluded.message,
    rule = excluded.rule, row = excluded.row, kept = excluded.kept, seen_at = clock_timestamp()
"""


def is_refusal(error: psycopg.Error) -> bool:
    """Return whether an error may be the fault of some rows among those that were written."""
    state = error.sqlstate or ""
    if state[:2] == "42" and error.diag.statement_position is not None:
        return False  # the statement itself is wrong, before any row was looked at
    return state[:2] in REFUSALS and state not in NO_REFUSALS


class Sieve:
    """Puts the rows of a list, all that fit; the others become conflicts of a member of a change, in a direction."""

    def __init__(self, connection: Connection, listing: Listing, change_id: str, member: int, direction: str) -> None:
        self.listing = listing
        wording = listing.wording
        self.whose = {"change": change_id, "member": member, "direction": direction}
        conflict = sql.SQL(_CONFLICT).format(
            **{name: sql.Literal(value) for name, value in self.whose.items()},
            key=wording.key_text("segue_row"),
            source=wording.source,
            holds=listing.holds("segue_n = $1", "segue_row"),
            kept=listing.kept_row("segue_row"),
        )
        run = sql.SQL(
            "execute {} using segue_low, segue_high; get diagnostics segue_some = row_count; "
            "segue_put := segue_put + segue_some;"
        )
        body = sql.SQL(_SIFT).format(
            table=listing.table,
            put=sql.SQL("\n").join(
                run.format(sql.Literal(part.as_string(connection))) for part in listing.put("segue_n between $1 and $2")
            ),
            conflict=sql.Literal(conflict.as_string(connection)),
            never=sql.Literal(list(NO_REFUSALS)),
            most=sql.SQL(str(MOST_CONFLICTS)),
        )
        self._sift = sql.SQL(
            sql.SQL(";\n")
            .join(
                [
                    listing.numbered,
                    sql.SQL("do {}").format(sql.Literal(body.as_string(connection))),
                    sql.SQL("select current_setting('segue.rows')::bigint, current_setting('segue.refused')::bigint"),
                ]
            )
            .as_string(connection)
        )

    def sift(self, connection: Connection) -> tuple[int, int]:
        """Put the listed rows within the running transaction; return how many were put and how many were refused.

        Raises StepFailed when there are so many conflicts that nobody could mend them.
        """
        cursor = connection.execute(self._sift)
        while cursor.nextset():
            pass
        rows, refused = cursor.fetchone() or (0, 0)
        if refused:
            self.check(connection)
        return int(rows), int(refused)

    def check(self, connection: Connection) -> None:
        """Raise StepFailed when there are more conflicts than anybody would mend."""
        row = connection.execute(
            "select count(*) from segue.conflict where change = %(change)s and member = %(member)s "
            "and direction = %(direction)s",
            self.whose,
        ).fetchone()
        if row and row[0] > MOST_CONFLICTS:
            raise too_many()


def too_many() -> StepFailed:
    """Return the error to raise when the new definition does not fit the data at all."""
    return StepFailed(
        f"the new definition refuses more than {MOST_CONFLICTS} rows",
        hint="look at some of them with `segue change conflicts`; mend the rows beforehand, or change the definition",
    )
