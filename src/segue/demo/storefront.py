"""Create and fill the storefront, and say what belongs to it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import psycopg

#: The role that the application connects as; it owns nothing.
APPLICATION = "storefront_app"

_PINNED = "-c timezone=UTC -c datestyle=ISO -c search_path=public -c intervalstyle=postgres -c extra_float_digits=1"


def connect(url: str, *, autocommit: bool = True) -> psycopg.Connection:
    """Open a connection under which values have one text form, whatever the role's and the server's defaults are."""
    import psycopg

    return psycopg.connect(url, autocommit=autocommit, options=_PINNED, application_name="storefront")


def create(url: str, app_password: str, *, narrow: bool = False) -> None:
    """Create the empty storefront in schema `public`, and the application's role with this password.

    All or nothing. The role is kept, with the new password, where it exists. Needs CREATEROLE and CREATE on the
    database and on `public`. `narrow`: as it was years ago, with 32-bit numbers for orders.
    """
    from psycopg import sql

    with connect(url, autocommit=False) as connection:
        # Encrypted here, so that the password cannot turn up in the server's log.
        secret = connection.pgconn.encrypt_password(app_password.encode(), APPLICATION.encode(), b"scram-sha-256")
        exists = connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", (APPLICATION,)).fetchone()
        statement = "ALTER ROLE {} LOGIN PASSWORD {}" if exists else "CREATE ROLE {} LOGIN PASSWORD {}"
        connection.execute(sql.SQL(statement).format(sql.Identifier(APPLICATION), sql.Literal(secret.decode())))
        for name in _definitions():
            connection.execute(_narrowed(_text(name)) if narrow else _text(name))
        connection.commit()


def load(url: str, scale: float = 0.05, seed: int = 1) -> int:
    """Fill the empty storefront: scale 1 is about 1 GB. Returns the database's size in bytes.

    The same scale and seed give the same rows. One transaction, then ANALYZE.
    """
    from psycopg import sql

    sizes = {
        "customers": max(1000, int(800_000 * scale)),
        "orders": max(2000, int(1_200_000 * scale)),
        "products": max(200, int(20_000 * scale)),
        "events": max(500, int(400_000 * scale)),
        "few": max(50, int(20_000 * scale)),
    }
    with connect(url, autocommit=False) as connection:
        columns = sql.SQL(", ").join(
            sql.SQL("{}::integer AS {}").format(sql.Literal(number), sql.Identifier(name))
            for name, number in sizes.items()
        )
        connection.execute(sql.SQL("CREATE TEMP TABLE sizes ON COMMIT DROP AS SELECT {}").format(columns))
        connection.execute(
            sql.SQL(
                "CREATE FUNCTION pg_temp.pick(g bigint, salt integer, below integer) RETURNS integer"
                " LANGUAGE sql IMMUTABLE AS"
                " $$ SELECT ((hashint8extended(g, salt + {} * 1000::bigint) & 2147483647) % below)::integer $$"
            ).format(sql.Literal(seed))
        )
        # The rows are right by construction; checking each foreign key again would double the time. Only a superuser
        # may skip that. Our own triggers stay off for everybody, so that both ways give the same rows.
        if connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (True,):
            connection.execute("SET LOCAL session_replication_role = replica")
        for table in ("orders", "accounting_entries"):
            connection.execute(sql.SQL("ALTER TABLE {} DISABLE TRIGGER USER").format(sql.Identifier(table)))
        connection.execute(_text("load.sql"))
        for table, column in connection.execute(_SEQUENCES).fetchall():
            connection.execute(
                sql.SQL("SELECT setval(pg_get_serial_sequence({}, {}), max({}) + 1, false) FROM {}").format(
                    sql.Literal(table), sql.Literal(column), sql.Identifier(column), sql.Identifier(table)
                )
            )
        # Foreign keys checked at the end of the transaction would refuse the change of the trigger's state.
        connection.execute("SET CONSTRAINTS ALL IMMEDIATE")
        for table in ("orders", "accounting_entries"):
            connection.execute(sql.SQL("ALTER TABLE {} ENABLE TRIGGER USER").format(sql.Identifier(table)))
        connection.commit()
        connection.autocommit = True
        connection.execute("ANALYZE")
        row = connection.execute("SELECT pg_database_size(current_database())").fetchone()
        return int(row[0]) if row else 0


def tables(connection: psycopg.Connection) -> list[str]:
    """Return the names of the storefront's tables, partitions left out, in alphabetical order."""
    return [str(row[0]) for row in connection.execute(_TABLES)]


_TABLES = """
SELECT c.relname FROM pg_class c
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
ORDER BY c.relname
"""

_SEQUENCES = """
SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid
WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
  AND a.attnum > 0 AND NOT a.attisdropped AND pg_get_serial_sequence(format('%I', c.relname), a.attname) IS NOT NULL
ORDER BY 1, 2
"""


def _definitions() -> Iterator[str]:
    names = sorted(item.name for item in (files("segue.demo") / "sql").iterdir())
    return (name for name in names if name[:2].isdigit())


def _text(name: str) -> bytes:
    # Bytes, because these are our own files, not text that a user could have had a hand in.
    return (files("segue.demo") / "sql" / name).read_bytes()


def _narrowed(definition: bytes) -> bytes:
    """Return a definition in which orders are numbered with 32 bits, and so are all references to them."""
    head, found, tail = definition.partition(b"CREATE TABLE orders (\n  id bigint")
    if found:
        definition = head + found.replace(b"bigint", b"integer") + tail
    return re.sub(rb"(?m)^(  order_id) bigint\b", rb"\1 integer", definition)
