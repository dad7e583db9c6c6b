"""Finds the rows of a piece that cannot be written, writes the others, and keeps those as rejected."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from segue.databases.postgresql.online.refusing import NO_REFUSALS, is_refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    import psycopg

    Connection = psycopg.Connection[tuple[Any, ...]]

# A row that comes twice for one ON CONFLICT DO UPDATE: apart from the other it is written.
_TWICE = "21000"

# Halves first the lower keys, so that of rows that exclude each other the one with the lowest key is written. Each
# attempt is a subtransaction; what is counted survives those that are rolled back.
_SIFT = """
declare
    segue_todo bigint[];
    segue_low bigint;
    segue_high bigint;
    segue_middle bigint;
    segue_some bigint;
    segue_rows bigint := 0;
    segue_refused bigint := 0;
    segue_state text;
    segue_message text;
    segue_detail text;
    segue_context text;
    segue_kind text;
    segue_target jsonb;
    segue_piece jsonb;
    segue_part text;
begin
    select array[1, max(segue_n)] into segue_todo from {keys} having max(segue_n) is not null;
    while cardinality(segue_todo) > 0 loop
        segue_low := segue_todo[cardinality(segue_todo) - 1];
        segue_high := segue_todo[cardinality(segue_todo)];
        segue_todo := trim_array(segue_todo, 2);
        begin
            execute {put} using segue_low, segue_high;
            get diagnostics segue_some = row_count;
            segue_rows := segue_rows + segue_some;
        exception
            when data_exception or integrity_constraint_violation or cardinality_violation
                or syntax_error_or_access_rule_violation or program_limit_exceeded or plpgsql_error then
            get stacked diagnostics segue_state = returned_sqlstate, segue_message = message_text,
                segue_detail = pg_exception_detail, segue_context = pg_exception_context;
            if segue_state = any({never}) then
                raise;
            end if;
            if segue_low < segue_high then
                segue_middle := (segue_low + segue_high) / 2;
                segue_todo := segue_todo || array[segue_middle + 1, segue_high, segue_low, segue_middle];
            else
                begin
                    segue_target := null;
                    execute {target} into segue_target using segue_low, segue_high;
                exception when others then
                    -- Not all of it could be worked out: then what can be.
                    segue_target := '{{}}';
                    foreach segue_part in array {parts}::text[] loop
                        begin
                            execute segue_part into segue_piece using segue_low, segue_high;
                            segue_target := segue_target || coalesce(segue_piece, '{{}}');
                        exception when others then
                            null;
                        end;
                    end loop;
                end;
                segue_kind := case
                    when segue_state like '23%' then 'constraint'
                    when segue_state like 'P0%' then 'validation'
                    else 'transformation'
                end;
                segue_context := concat_ws(e'\\n', segue_state || ': ' || segue_message,
                    'detail: ' || nullif(segue_detail, ''), 'context: ' || nullif(segue_context, ''));
                execute {reject}
                using segue_low, segue_high, segue_kind, segue_state,
                    concat_ws(': ', segue_message, nullif(segue_detail, '')), segue_context, segue_target;
                segue_refused := segue_refused + 1;
                exit when segue_refused > {most};
            end if;
        end;
    end loop;
    perform set_config('segue.rows', segue_rows::text, true), set_config('segue.refused', segue_refused::text, true);
end
"""


def is_row_fault(error: psycopg.Error) -> bool:
    """Return whether an error may be the fault of some rows among those that were written."""
    return is_refusal(error) or error.sqlstate == _TWICE


class Sieve:
    """Writes the rows of a numbered list, all that can be written.

    The statements refer to the numbers from `$1` to `$2`; `parts` work out what `target` does for a
    column each, and `reject` gets type, SQLSTATE, message, stack and the row as
    it would be in the target as `$3` to `$7`. After more than `most` rejected ones the rest is left.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        keys: sql.Composable,
        put: sql.Composable,
        target: sql.Composable,
        parts: Sequence[sql.Composable],
        reject: sql.Composable,
        most: int,
    ) -> None:
        def text(part: sql.Composable) -> sql.Literal:
            return sql.Literal(part.as_string(connection))

        body = sql.SQL(_SIFT).format(
            keys=keys,
            put=text(put),
            target=text(target),
            parts=sql.Literal([part.as_string(connection) for part in parts]),
            reject=text(reject),
            never=sql.Literal(list(NO_REFUSALS)),
            most=sql.SQL(str(most)),
        )
        self._sift = sql.SQL("do {};\n{}").format(
            text(body),
            sql.SQL("select current_setting('segue.rows')::bigint, current_setting('segue.refused')::bigint"),
        )

    def sift(self, connection: Connection) -> tuple[int, int]:
        """Write within the running transaction; return how many rows were written, and how many rejected."""
        cursor = connection.execute(self._sift)
        while cursor.nextset():
            pass
        rows, refused = cursor.fetchone() or (0, 0)
        return int(rows), int(refused)
