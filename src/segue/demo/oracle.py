"""Say after any migration what became of the storefront's data: lost, duplicated, wrong.

What must be true is the state before the traffic (`take`), changed by what the journal says was acknowledged:

 - Of every row there was, `take` writes one line to a file: its key, a 64-bit hash of the columns that nobody changes,
   one of the columns that the traffic sets, and the numbers that it adds to. So a row of which the journal does not
   speak must be there unchanged, and a row of which it speaks must keep all its other columns.
 - Of a row that the traffic inserted every column is known, of one it changed the columns it set: the last
   acknowledged value must be there. A number must be what it was plus all acknowledged additions.
 - A row that neither knows is there once too often (its `reference`, made by the client, is another row's too), or
   nobody knows where it is from: it counts as wrong.

The comparison happens in the server, in temporary tables, so its memory does not grow with the data. The traffic must
be paused or ended meanwhile. Columns are those of the time of `take`; `renamed` says what became of them.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from segue.demo import journal as journals
from segue.demo import storefront

if TYPE_CHECKING:
    import psycopg
    from psycopg.sql import Composable

#: At most so many findings are told in words; all are counted.
SPOKEN = 20


@dataclass
class Verdict:
    """What the oracle found. `ok` when nothing is lost, duplicated or wrong, and no statement failed."""

    acknowledged: int = 0
    lost: int = 0
    duplicated: int = 0
    wrong: int = 0
    errors: int = 0
    fenced: int = 0
    row_types: int = 0  # prepared statements that failed because a column's type had changed
    rows: int = 0  # compared
    details: list[str] = field(default_factory=list)

    @property
    def data_ok(self) -> bool:
        """Return whether the data is as it must be, whatever the application met."""
        return not (self.lost or self.duplicated or self.wrong)

    @property
    def ok(self) -> bool:
        """Return whether all is well."""
        return self.data_ok and not self.errors

    def tell(self, text: str) -> None:
        """Add a finding in words."""
        if len(self.details) < SPOKEN:
            self.details.append(text)


def take(url: str, directory: Path) -> int:
    """Record what the storefront holds now, before the traffic starts. Returns the number of rows."""
    from psycopg import sql

    directory.mkdir(parents=True, exist_ok=True)
    rows = 0
    shapes: dict[str, dict[str, Any]] = {}
    with storefront.connect(url, autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        for table in storefront.tables(connection):
            shape = _shape(connection, table)
            shapes[table] = shape
            query = sql.SQL("COPY ({}) TO STDOUT").format(_rows(table, shape, {}))
            with (directory / f"{table}.rows").open("wb") as file, connection.cursor().copy(query) as copy:
                for data in copy:
                    file.write(data)
                    rows += bytes(data).count(b"\n")
    (directory / "shapes.json").write_text(json.dumps(shapes))
    return rows


def judge(
    url: str,
    directory: Path,
    journal: Path,
    *,
    renamed: Mapping[str, Mapping[str, str]] | None = None,
    tables: Collection[str] | None = None,
    invariants: Collection[str] | None = None,
) -> Verdict:
    """Compare the storefront with what `take` recorded in the directory and what the journal says since.

    `renamed` maps table to {column then: column now}. One snapshot of the database is judged. Where the storefront is
    in several databases, `tables` and `invariants` are those to look at in this one.
    """
    verdict = Verdict()
    shapes: dict[str, dict[str, Any]] = json.loads((directory / "shapes.json").read_text())
    with storefront.connect(url, autocommit=False) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        # Temporary tables of this size would spill to disk with the default.
        connection.execute("SET LOCAL work_mem = '64MB'")
        _hear(connection, journal, verdict)
        for table, shape in shapes.items():
            if tables is not None and table not in tables:
                continue
            _compare(
                connection, table, shape, directory / f"{table}.rows", (renamed or {}).get(table, {}), verdict=verdict
            )
        for name, question in INVARIANTS.items():
            if invariants is not None and name not in invariants:
                continue
            row = connection.execute(question).fetchone()
            if row is not None and row[0]:
                verdict.wrong += int(row[0])
                verdict.tell(f"{name}: {row[0]} times")
        connection.rollback()
    return verdict


def percentiles(
    latencies: Iterable[tuple[float, float]], begin: float = 0.0, end: float = float("inf")
) -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds of what was due in this span of time (seconds since the epoch)."""
    found = sorted(milliseconds for due, milliseconds in latencies if begin <= due < end)
    if not found:
        return {"p50": 0.0, "p95": 0.0, "p99": 0.0}
    return {f"p{p}": round(found[min(len(found) - 1, len(found) * p // 100)], 2) for p in (50, 95, 99)}


#: Each question counts violations.
INVARIANTS: dict[str, str] = {
    "all entries do not sum to zero": "SELECT (coalesce(sum(amount_cents), 0) <> 0)::integer FROM accounting_entries",
    "a booking does not sum to zero": """
        SELECT count(*) FROM (
          SELECT transaction_id FROM accounting_entries GROUP BY transaction_id HAVING sum(amount_cents) <> 0
        ) unbalanced""",
    "an account's balance is not the sum of its entries": """
        SELECT count(*) FROM accounts a LEFT JOIN (
          SELECT account_id, sum(amount_cents) AS booked FROM accounting_entries GROUP BY account_id
        ) e ON e.account_id = a.id
        WHERE a.balance_cents <> coalesce(e.booked, 0)""",
    "stock is negative": "SELECT count(*) FROM inventory WHERE on_hand < 0",
    "a wallet is negative": "SELECT count(*) FROM accounts WHERE kind = 'wallet' AND balance_cents < 0",
    "an order's total is not the sum of its items": """
        SELECT count(*) FROM orders o LEFT JOIN (
          SELECT order_id, sum(quantity::bigint * unit_cents) AS items FROM order_items GROUP BY order_id
        ) i ON i.order_id = o.id
        WHERE o.total_cents <> coalesce(i.items, 0)""",
    "a paid order has no payment of its total": """
        SELECT count(*) FROM orders o LEFT JOIN (
          SELECT order_id, sum(amount_cents) AS paid FROM payments WHERE status = 'captured' GROUP BY order_id
        ) p ON p.order_id = o.id
        WHERE o.status::text IN ('paid', 'shipped', 'delivered', 'refunded')
          AND coalesce(p.paid, 0) <> o.total_cents""",
    "a refund is not what was paid": """
        SELECT count(*) FROM refunds r JOIN payments p ON p.id = r.payment_id WHERE r.amount_cents <> p.amount_cents""",
    "an order's last recorded status is not its status": """
        SELECT count(*) FROM orders o LEFT JOIN (
          SELECT DISTINCT ON (order_id) order_id, status FROM order_status_history ORDER BY order_id, id DESC
        ) last ON last.order_id = o.id
        WHERE o.status::text IS DISTINCT FROM last.status::text""",
}


def _shape(connection: psycopg.Connection, table: str) -> dict[str, Any]:
    """Return a table's key and columns: those that stay, those that the traffic sets, those that it adds to."""
    columns = [
        (str(name), str(kind))
        for name, kind in connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = to_regclass(quote_ident(%s)) AND attnum > 0 AND NOT attisdropped ORDER BY attnum",
            (table,),
        )
    ]
    key = [journals.KEYS[table]] if table in journals.KEYS else _primary_key(connection, table)
    counters = journals.COUNTERS.get(table, ())
    # What is generated from a column that the traffic sets changes with it, and follows from it.
    generated = {"customer_preferences": ("newsletter",)}.get(table, ())
    mutable = (*journals.MUTABLE.get(table, ()), *generated)
    return {
        "key": key,
        "fixed": [name for name, _ in columns if name not in mutable and name not in counters],
        "mutable": [name for name, _ in columns if name in mutable],
        "counters": list(counters),
        "types": dict(columns),
    }


def _primary_key(connection: psycopg.Connection, table: str) -> list[str]:
    return [
        str(row[0])
        for row in connection.execute(
            "SELECT a.attname FROM pg_index i"
            " JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
            " WHERE i.indrelid = to_regclass(quote_ident(%s)) AND i.indisprimary ORDER BY a.attnum",
            (table,),
        )
    ]


def _rows(table: str, shape: Mapping[str, Any], names: Mapping[str, str]) -> Composable:
    """Return the query that gives key, hash of what stays, hash of what is set, and the numbers of every row."""
    from psycopg import sql

    def columns(which: Sequence[str]) -> list[Composable]:
        return [sql.Identifier(names.get(name, name)) for name in which]

    def digest(which: Sequence[str]) -> Composable:
        if not which:
            return sql.SQL("0::bigint")
        return sql.SQL("hashtextextended(ROW({})::text, 0)").format(sql.SQL(", ").join(columns(which)))

    numbers: Composable = sql.SQL("NULL::jsonb")
    if shape["counters"]:
        pairs: list[Composable] = []
        for name in shape["counters"]:
            pairs += [sql.Literal(name), sql.Identifier(names.get(name, name))]
        numbers = sql.SQL("jsonb_build_object({})").format(sql.SQL(", ").join(pairs))
    key = columns(shape["key"])
    return sql.SQL("SELECT {} AS key, {} AS fixed, {} AS mutable, {} AS numbers FROM {}").format(
        sql.SQL("{}::text").format(key[0])
        if len(key) == 1
        else sql.SQL("ROW({})::text").format(sql.SQL(", ").join(key)),
        digest(shape["fixed"]),
        digest(shape["mutable"]),
        numbers,
        sql.Identifier(table),
    )


def _hear(connection: psycopg.Connection, journal: Path, verdict: Verdict) -> None:
    """Bring the journal into the temporary table `said`: one row for each row that the traffic wrote, at its end."""
    connection.execute("CREATE TEMP TABLE heard (tab text, key text, n bigint, op text, vals jsonb) ON COMMIT DROP")
    with connection.cursor().copy("COPY heard FROM STDIN") as copy:
        number = 0
        for line in journals.read(journal):
            verdict.acknowledged += "w" in line
            verdict.fenced += "fenced" in line
            verdict.row_types += "row_type" in line
            if "error" in line:
                verdict.errors += 1
                verdict.tell(line["error"])
            if "wrong" in line:
                verdict.wrong += 1
                verdict.tell(line["wrong"])
            for op, table, key, values in line.get("w", ()):
                number += 1
                # Text, so that a value goes to the column's type by that type's own input.
                written = {
                    name: json.dumps(value) if isinstance(value, dict) else None if value is None else str(value)
                    for name, value in values.items()
                }
                copy.write_row((table, key, number, op, json.dumps(written)))
    connection.execute("CREATE INDEX ON heard (tab, key, n)")
    connection.execute("ANALYZE heard")
    connection.execute(
        """
        CREATE TEMP TABLE said ON COMMIT DROP AS
        SELECT h.tab, h.key, l.op = '-' AS gone, coalesce(l.born, false) AS born,
          (SELECT jsonb_object_agg(v.key, v.value ORDER BY e.n) FROM heard e, jsonb_each(e.vals) v
           WHERE e.tab = h.tab AND e.key = h.key AND e.op IN ('+', '=')) AS vals,
          (SELECT jsonb_object_agg(s.key, s.total) FROM (
             SELECT v.key, sum(v.value::numeric) AS total FROM heard e, jsonb_each_text(e.vals) v
             WHERE e.tab = h.tab AND e.key = h.key AND e.op = '~' GROUP BY v.key) s) AS deltas
        FROM (SELECT DISTINCT tab, key FROM heard) h,
          LATERAL (SELECT max(e.op) FILTER (WHERE e.op = '-') AS op, bool_or(e.op = '+') AS born
                   FROM heard e WHERE e.tab = h.tab AND e.key = h.key) l
        """
    )
    # A key that was deleted is never used again, so a deletion is the last word.
    connection.execute("UPDATE said SET gone = false WHERE gone IS NULL")
    connection.execute("CREATE UNIQUE INDEX ON said (tab, key)")
    connection.execute("ANALYZE said")


def _compare(
    connection: psycopg.Connection,
    table: str,
    shape: Mapping[str, Any],
    file: Path,
    names: Mapping[str, str],
    *,
    verdict: Verdict,
) -> None:
    from psycopg import sql

    connection.execute("DROP TABLE IF EXISTS pg_temp.old, pg_temp.new, pg_temp.told")
    connection.execute("CREATE TEMP TABLE old (key text, fixed bigint, mutable bigint, numbers jsonb) ON COMMIT DROP")
    with file.open("rb") as data, connection.cursor().copy("COPY old FROM STDIN") as copy:
        while block := data.read(1 << 16):
            copy.write(block)
    connection.execute(sql.SQL("CREATE TEMP TABLE new ON COMMIT DROP AS {}").format(_rows(table, shape, names)))
    connection.execute(
        "CREATE TEMP TABLE told ON COMMIT DROP AS SELECT key, gone, born, vals, deltas FROM said WHERE tab = %s",
        (table,),
    )
    connection.execute("ANALYZE old")
    connection.execute("ANALYZE new")
    connection.execute("ANALYZE told")
    row = connection.execute("SELECT count(*) FROM new").fetchone()
    verdict.rows += int(row[0]) if row else 0
    _count(verdict, "lost", table, "is gone", connection.execute(_LOST))
    _count(verdict, "wrong", table, "was deleted and is there", connection.execute(_CAME_BACK))
    _count(verdict, "wrong", table, "has changed", connection.execute(_CHANGED))
    _count(verdict, "wrong", table, "is off by additions", connection.execute(_NUMBERS))
    twice = connection.execute("SELECT key FROM new GROUP BY key HAVING count(*) > 1")
    _count(verdict, "duplicated", table, "is there twice", twice)
    if table in journals.KEYS:
        _values(connection, table, shape, names, verdict=verdict)
    if table not in journals.DERIVED:
        _extra(connection, table, shape, names, verdict=verdict)


_LOST = """
SELECT key FROM (
  SELECT key FROM old WHERE NOT EXISTS (SELECT 1 FROM told t WHERE t.key = old.key AND t.gone)
  UNION SELECT key FROM told WHERE NOT gone
) expected WHERE NOT EXISTS (SELECT 1 FROM new WHERE new.key = expected.key)"""

_CAME_BACK = "SELECT t.key FROM told t WHERE t.gone AND EXISTS (SELECT 1 FROM new n WHERE n.key = t.key)"

_CHANGED = """
SELECT o.key FROM old o JOIN new n USING (key) LEFT JOIN told t USING (key)
WHERE o.fixed <> n.fixed OR (o.mutable <> n.mutable AND t.vals IS NULL)"""

_NUMBERS = """
SELECT key FROM new n LEFT JOIN old o USING (key) LEFT JOIN told t USING (key),
  jsonb_each_text(n.numbers) x (name, value)
WHERE (o.key IS NOT NULL OR t.born) AND x.value::numeric <>
  coalesce((o.numbers ->> x.name)::numeric, (t.vals ->> x.name)::numeric, 0)
  + coalesce((t.deltas ->> x.name)::numeric, 0)"""


def _values(
    connection: psycopg.Connection,
    table: str,
    shape: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    verdict: Verdict,
) -> None:
    """Find rows that do not hold the last acknowledged value of a column."""
    from psycopg import sql

    tests = [
        sql.SQL("(t.vals ? {name} AND r.{now} IS DISTINCT FROM (t.vals ->> {name})::{kind})").format(
            name=sql.Literal(name),
            now=sql.Identifier(names.get(name, name)),
            kind=sql.SQL(kind),  # as the server's own format_type wrote it
        )
        for name, kind in shape["types"].items()
        if name not in shape["counters"]
    ]
    key = shape["key"][0]
    query = sql.SQL("SELECT t.key FROM told t JOIN {} r ON r.{} = t.key::{} WHERE NOT t.gone AND ({})").format(
        sql.Identifier(table),
        sql.Identifier(names.get(key, key)),
        sql.SQL(shape["types"][key]),
        sql.SQL(" OR ").join(tests),
    )
    _count(verdict, "wrong", table, "does not hold what was acknowledged", connection.execute(query))


def _extra(
    connection: psycopg.Connection,
    table: str,
    shape: Mapping[str, Any],
    names: Mapping[str, str],
    *,
    verdict: Verdict,
) -> None:
    """Find rows that nobody wrote."""
    from psycopg import sql

    connection.execute("DROP TABLE IF EXISTS pg_temp.extra")
    connection.execute(
        "CREATE TEMP TABLE extra ON COMMIT DROP AS SELECT n.key FROM new n"
        " WHERE NOT EXISTS (SELECT 1 FROM old o WHERE o.key = n.key)"
        " AND NOT EXISTS (SELECT 1 FROM told t WHERE t.key = n.key)"
    )
    if "reference" in shape["types"]:
        key = names.get(shape["key"][0], shape["key"][0])
        again = sql.SQL(
            "DELETE FROM extra x USING {0} r WHERE r.{1}::text = x.key"
            " AND EXISTS (SELECT 1 FROM {0} s WHERE s.{2} = r.{2} AND s.{1} <> r.{1}) RETURNING x.key"
        ).format(sql.Identifier(table), sql.Identifier(key), sql.Identifier(names.get("reference", "reference")))
        _count(verdict, "duplicated", table, "repeats another row", connection.execute(again))
    _count(verdict, "wrong", table, "is a row that nobody wrote", connection.execute("SELECT key FROM extra"))


def _count(verdict: Verdict, what: str, table: str, words: str, found: Iterable[tuple[Any, ...]]) -> None:
    for (key,) in found:
        setattr(verdict, what, getattr(verdict, what) + 1)
        verdict.tell(f"{table} {key} {words}")
