"""What hangs on a table moves with its name: found, cloned, swapped, and swapped back."""

from __future__ import annotations

import psycopg
import pytest
from fix_swapping import Hang, Hanging

from segue.databases.postgresql.online import dependents, parity

STRONG = (
    "select distinct l.relation::regclass::text from pg_locks as l join pg_class as c on c.oid = l.relation "
    "join pg_namespace as n on n.oid = c.relnamespace where l.pid = pg_backend_pid() and c.relkind in ('r', 'p') "
    "and l.mode not in ('AccessShareLock', 'RowShareLock', 'RowExclusiveLock') and n.nspname in ('shop', 'audit')"
)


def parities(change: Hanging, direction: str) -> list[str]:
    return parity.compare_after(change.connection, change.change, direction)


def use(change: Hanging, number: int) -> None:
    """Use everything that hangs on the table as an application would."""
    run, value = change.run, lambda query: change.rows(query)[0][0]
    run("set row_security = on", "truncate audit.log")
    before = value("select last_value from shop.orders_number_seq")
    run(f"insert into shop.bigger (order_id, who) values (0, 'by view {number}')")
    assert value(f"select count(*) from shop.orders where code = 'by view {number}'") == 1
    assert value("select max(number) from shop.orders") == before + 5
    assert change.rows("select what, code from audit.log") == [("B Note INSERT", f"by view {number}")]
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run("insert into shop.lines values (-1, 100)")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        run("begin; insert into shop.orders (customer_id, code) values (99, 'x'); commit")
    run("rollback", "delete from shop.orders where id = 40")
    assert value("select count(*) from shop.lines where order_id = 40") == 0
    assert value("select count(*) from shop.orders where parent_id = 1") == 1
    run("delete from shop.codes", f"update shop.orders set code = 'keep' where code = 'by view {number}'")
    run("delete from shop.orders where code = 'keep'")
    assert value("select count(*) from shop.orders where code = 'keep'") == 1
    run("update shop.orders set code = 'kept' || id where code = 'keep'")
    total = value("select sum(amount) from shop.orders where customer_id = 1")
    assert value("select shop.total(1)") == total
    assert value("select shop.biggest()") == value("select max(order_id) from shop.bigger")
    run("insert into shop.pointers (what) values ('next')")
    assert value("select max(number) from shop.pointers") == value("select last_value from shop.orders_number_seq")
    run("refresh materialized view shop.by_day")
    assert value("select sum(orders) from shop.by_day") == value("select count(*) from shop.orders")
    run("set role everything_clerk")
    assert change.rows("select distinct customer_id % 2 from shop.orders") == [(0,)]
    with pytest.raises(psycopg.errors.InsufficientPrivilege):
        run("update shop.orders set amount = 1")
    run("reset role", "set row_security = off")
    assert value("select count(*) from pg_publication_tables where pubname = 'whole' and tablename = 'orders'") == 1


def test_everything_is_known_and_comes_along_and_goes_back(hanging: Hang) -> None:
    change = hanging()
    assert dependents.refusals(change.found) == []
    change.dress()
    assert parity.compare(change.connection, change.change, change.member) == []
    use(change, 1)
    change.swap()
    assert parities(change, "forward") == []
    use(change, 2)
    change.run("delete from segue_everyth1_old.orders", _BACK)
    change.swap("backward")
    assert parities(change, "backward") == []
    use(change, 3)


_BACK = """
insert into segue_everyth1_old.orders (id, number, customer_id, code, amount, placed, parent_id)
overriding system value select id, number, customer_id, code, amount, placed, parent_id from shop.orders
"""


def test_a_swap_locks_no_table_that_it_does_not_name(hanging: Hang) -> None:
    change = hanging()
    change.dress()
    for direction in ("forward", "backward"):
        named = {name.replace('"', "") for name, _ in dependents.locks(change.member, change.change, direction)}
        with change.connection.transaction():
            change.run(*change.swapping(direction))
            assert {row[0] for row in change.rows(STRONG)} <= named
