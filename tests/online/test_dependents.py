"""What hangs on a table moves with its name: found, cloned, swapped, and swapped back."""

from __future__ import annotations

import psycopg
import pytest
from fix_swapping import Hang, Hanging
from fix_targets import run_sql

from segue.databases.postgresql import parse
from segue.databases.postgresql.online import dependents, parity
from segue.errors import StepFailed
from segue.model.online import TableChange

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
    with change.connection.transaction():  # as after a death
        change.run(*dependents.before(change.member, change.change))
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


PARTS = """
create schema "The ""1"" Shop";
set search_path = "The ""1"" Shop";
create table customers (id int primary key);
create table orders (
    id int generated always as identity, day date not null, customer_id int references customers, "No" int,
    primary key (id, day)
) partition by range (day);
create table orders_2024 partition of orders for values from ('2024-01-01') to ('2025-01-01');
create table orders_2025 partition of orders for values from ('2025-01-01') to ('2026-01-01');
create table lines (order_id int, day date, foreign key (order_id, day) references orders on delete cascade)
partition by hash (order_id);
create table lines_0 partition of lines for values with (modulus 2, remainder 0);
create table lines_1 partition of lines for values with (modulus 2, remainder 1);
create function note() returns trigger language plpgsql as $$ begin return null; end $$;
create trigger noted after insert on orders for each row execute function note();
create trigger only_here after update on orders_2025 for each row execute function note();
alter table orders_2024 disable trigger noted;
comment on table orders_2024 is 'last year';
comment on trigger noted on orders is 'all of them';
grant select on orders_2025 to public;
alter table orders_2025 add constraint own foreign key ("No") references customers not valid;
create index orders_day on orders (day);
comment on index orders_day is 'by day';
create view recent as select * from orders_2025;
create statistics days (dependencies) on id, day from orders_2025;
create policy one on orders_2025 using (id > 0);
insert into customers values (1);
insert into orders (day, customer_id) values ('2024-02-02', 1), ('2025-02-02', 1);
insert into lines select id, day from orders;
"""


def test_partitions_bring_along_their_own(hanging: Hang) -> None:
    change = hanging(PARTS, {'"The ""1"" Shop".orders': "alter id type bigint"})
    assert dependents.refusals(change.found) == []
    change.dress()
    assert parity.compare(change.connection, change.change, change.member) == []
    for direction in ("forward", "backward"):
        change.swap(direction)
        assert parities(change, direction) == []
        for refused in ("orders (day, customer_id) values ('2024-03-03', 2)", "lines values (7, '2024-01-01')"):
            with pytest.raises(psycopg.errors.ForeignKeyViolation):
                change.run(f'insert into "The ""1"" Shop".{refused}')


PLAIN = """
create schema shop;
create table shop.customers (id int primary key);
create table shop.orders (id int primary key, day date not null, customer_id int,
    constraint whose foreign key (customer_id) references shop.customers on delete cascade);
comment on constraint whose on shop.orders is 'whose it is';
create trigger noted before insert on shop.orders for each row execute function suppress_redundant_updates_trigger();
drop trigger noted on shop.orders;
create function shop.note() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger noted before insert on shop.orders for each row execute function shop.note();
create index orders_day on shop.orders (day);
create publication sent for table shop.orders;
grant insert on shop.orders to public;
insert into shop.customers values (1);
insert into shop.orders values (1, '2024-02-02', 1), (2, '2025-02-02', 1);
"""


def test_a_table_becomes_partitioned_with_its_foreign_keys(hanging: Hang) -> None:
    parts = "create table shop.orders_old partition of shop.orders for values from (minvalue) to ('2025-01-01');"
    parts += "create table shop.orders_new partition of shop.orders for values from ('2025-01-01') to (maxvalue)"
    key = "drop constraint orders_pkey, add primary key (id, day)"
    table = TableChange(table="shop.orders", alter=(key,), partition_by="RANGE (day)", partitions=parts)
    change = hanging(PLAIN, {"shop.orders": table})
    change.dress()
    assert parity.compare(change.connection, change.change, change.member) == []
    for direction in ("forward", "backward"):
        change.swap(direction)
        assert parities(change, direction) == []
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            change.run("insert into shop.orders values (7, '2024-01-01', 7)")
        assert change.rows("select count(*) from pg_publication_rel") == [(1,)]


GRAPH = """
create schema shop;
create table shop.customers (id serial primary key);
create table shop.orders (id serial primary key, customer_id int references shop.customers,
    parent int references shop.orders);
create table shop.lines (order_id int references shop.orders on delete cascade, line int, primary key (order_id, line));
create table shop.notes (order_id int references shop.orders);
create view shop.wide as select o.id, c.id as customer from shop.orders as o join shop.customers as c on true;
create view shop.wider as select w.id, l.line from shop.wide as w join shop.lines as l on l.order_id = w.id;
insert into shop.customers values (1);
insert into shop.orders values (1, 1, null), (2, 1, 1);
insert into shop.lines values (1, 1), (2, 1);
insert into shop.notes values (2);
"""
KEYS = {
    "shop.customers": "alter id type bigint",
    "shop.orders": "alter id type bigint, alter customer_id type bigint, alter parent type bigint",
    "shop.lines": "alter order_id type bigint",
}


def test_tables_that_refer_to_each_other_swap_together(hanging: Hang) -> None:
    change = hanging(GRAPH, dict(KEYS))
    change.dress()
    assert [parity.compare(change.connection, change.change, one) for one in change.change.members] == [[]] * 3
    for direction, type_ in (("forward", "bigint"), ("backward", "integer")):
        change.swap(direction)
        assert parities(change, direction) == []
        assert change.rows("select pg_typeof(id)::text from shop.wider limit 1") == [(type_,)]
        with pytest.raises(psycopg.errors.ForeignKeyViolation):
            change.run("insert into shop.notes values (9)")
        assert change.rows("select format_type(seqtypid, null) from pg_sequence") == [(type_,)] * 2


SHAPE = """
create schema shop;
create table shop.customers (id int primary key, code int unique);
create table shop.orders (id int primary key, customer int, gone int, other int, note text,
    constraint old_key foreign key (other) references shop.customers (code));
alter table shop.orders add constraint whose foreign key (customer) references shop.customers;
comment on column shop.orders.customer is 'whose';
comment on column shop.orders.gone is 'goes';
grant select (customer, gone) on shop.orders to public;
create publication few for table shop.orders (id, customer, gone);
"""


def test_renamed_and_dropped_columns_are_explained(hanging: Hang) -> None:
    alter = ("rename customer to customer_id", "drop gone", "drop constraint old_key", "drop other")
    more = ("add rating int references shop.customers (code)",)
    table = TableChange(table="shop.orders", alter=alter + more)
    change = hanging(SHAPE, {"shop.orders": table})
    assert dependents.refusals(change.found) == []
    change.dress()
    assert parity.compare(change.connection, change.change, change.member) == []
    change.swap()
    assert parities(change, "forward") == []
    assert change.rows(
        "select col_description('shop.orders'::regclass, attnum) from pg_attribute "
        "where attrelid = 'shop.orders'::regclass and attname = 'customer_id'"
    ) == [("whose",)]
    change.swap("backward")
    assert parities(change, "backward") == []
    assert change.rows("select count(*) from pg_constraint where contype = 'f'") == [(2,)]


#: What would be left behind, or would not work, by what makes it; and a part of the reason.
REFUSED = {
    "create function shop.of_row(o shop.orders) returns int language sql as 'select 1'": "row type",
    "create function shop.rows_of() returns setof shop.orders language sql as 'select * from shop.orders'": "row type",
    "create table shop.keeps (o shop.orders)": "row type",
    "create table shop.keeps (o shop.orders[])": "row type",
    "create domain shop.order_domain as shop.orders": "row type",
    "create type shop.pair as (one shop.orders, two int)": "row type",
    "create view shop.uses as select gone from shop.orders": "does not exist",
    "create view shop.uses as select id from shop.orders where lower(note) = 'x'": "lower(bytea) does not exist",
    "create policy uses on shop.orders using (gone > 1)": 'column "gone" does not exist',
    "create function shop.sum() returns int language sql begin atomic select gone from shop.orders; end": "gone",
    "create rule uses as on delete to shop.orders where old.gone > 1 do also select 1": "gone",
    "create table shop.refers (note text references shop.orders (note))": "unique",
    "alter extension plpgsql add table shop.orders": "extension",
    "create table shop.part (check (shop.takes('shop.orders'::regclass)))": "depends",
}


@pytest.mark.parametrize("script", REFUSED)
def test_what_cannot_come_along_is_refused_with_the_reason(hanging_here: Hang, script: str) -> None:
    base = """
        create schema shop;
        create function shop.takes(regclass) returns boolean language sql immutable as 'select true';
        create table shop.orders (id int primary key, gone int, note text unique);
    """
    alter = "drop gone, drop constraint orders_note_key, alter note type bytea using note::bytea"
    try:
        change = hanging_here(base + script, {"shop.orders": alter})
        found = dependents.refusals(change.found)
    except StepFailed as error:
        found = [error.message, *error.details]
    assert len(found) >= 1
    assert any(REFUSED[script] in line for line in found), found


@pytest.mark.parametrize(
    "hangs",
    [
        "create view shop.uses as select o.note from shop.orders as o",
        "create policy uses on shop.orders using (note > '')",
    ],
)
def test_what_names_a_renamed_column_is_refused_with_the_way_round(hanging_here: Hang, hangs: str) -> None:
    table = TableChange("shop.orders", ("alter id type bigint", "rename note to remark"))
    change = hanging_here(
        f"create schema shop; create table shop.orders (id int primary key, note text); {hangs}", {"shop.orders": table}
    )
    (line,) = dependents.refusals(change.found)
    assert line.endswith("leave RENAME COLUMN to a `sql` step, which takes a moment and takes it along")


def test_a_security_label_that_nobody_can_set_is_refused(hanging: Hang) -> None:
    # No server of the tests has a provider; one that was there and is not any more has left its labels behind.
    label = "insert into pg_seclabel values ('shop.orders'::regclass, 'pg_class'::regclass, {}, 'gone', 'secret')"
    script = GRAPH + f"; set allow_system_table_mods = on; {label.format(0)}; {label.format(1)}"
    found = dependents.refusals(hanging(script, {"shop.orders": "add note text"}).found)
    assert [line.split(": gone would")[0] for line in found] == ['security label of "shop"."orders"'] * 2
    assert all('security label provider "gone" is not loaded' in line for line in found)


def test_what_comes_later_is_told_before_it_is_left_behind(hanging: Hang) -> None:
    change = hanging(GRAPH, {"shop.orders": "add note text"})
    change.dress()
    change.run("create view shop.later as select id from shop.orders", "grant select on shop.orders to public")
    change.run("alter view shop.wide set (security_barrier)", "drop table shop.notes")
    found = parity.compare(change.connection, change.change, change.member)
    for part in ('view "shop"."later" depends on it since', 'grant "SELECT" to PUBLIC', '"notes_order_id_fkey"'):
        assert any(part in line for line in found), part


def test_views_are_locked_before_their_tables_and_nothing_else(hanging: Hang) -> None:
    change = hanging()
    with change.connection.transaction():
        change.run(*dependents.views_first(change.change))
        query = "select distinct relation::regclass::text from pg_locks where mode = 'AccessExclusiveLock'"
        locked = {row[0] for row in change.rows(query + " and relation is not null and pid = pg_backend_pid()")}
    assert locked == {"shop.codes", "shop.big_orders", "shop.bigger", "shop.by_day", "shop.days"}


def test_a_subscription_writes_the_new_table(hanging: Hang) -> None:
    change = hanging(GRAPH + """
        create subscription arriving connection 'dbname=nowhere' publication whichever with (connect = false);
        insert into pg_subscription_rel select s.oid, 'shop.orders'::regclass, 'r', null from pg_subscription as s
        where s.subname = 'arriving';
    """, {"shop.orders": "add note text"})  # fmt: skip
    try:
        change.dress()
        change.swap()
        assert parities(change, "forward") == []
        assert change.rows("select srrelid::regclass::text from pg_subscription_rel") == [("shop.orders",)]
    finally:
        change.run("alter subscription arriving set (slot_name = none)", "drop subscription arriving")


def test_an_ordinary_owner_swaps_as_well(ordinary: str) -> None:
    with psycopg.connect(ordinary, autocommit=True, prepare_threshold=None) as connection:
        connection.execute((PLAIN + "create view shop.seen as select id from shop.orders").encode())
        change = Hanging(connection, {"shop.orders": "alter id type bigint"})
        assert dependents.refusals(change.found) == []
        change.dress()
        assert parity.compare(connection, change.change, change.member) == []
        for direction in ("forward", "backward"):
            change.swap(direction)
            assert parities(change, direction) == []


def test_what_belongs_to_others_is_refused_beforehand(ordinary: str, administered: str) -> None:
    others = """
        create view public.theirs as select id from shop.orders;
        create table public.refers (id int references shop.orders);
        alter table shop.customers owner to current_user;
        create publication theirs for table shop.orders;
    """
    with psycopg.connect(ordinary, autocommit=True, prepare_threshold=None) as connection:
        connection.execute(PLAIN.encode())
        run_sql(administered, *others.strip().removesuffix(";").split(";"))
        change = Hanging(connection, {"shop.orders": "alter id type bigint"})
        found = dependents.refusals(change.found)
    shown = ['view "public"."theirs"', 'table "public"."refers"', 'table "shop"."customers"', 'publication "theirs"']
    assert [any(line.startswith(what) for line in found) for what in shown] == [True] * 4, found


def test_what_people_should_know_is_told_before_a_swap(hanging_here: Hang) -> None:
    change = hanging_here()
    change.run("create publication everything_there_is for all tables")
    change.run("create function shop.event() returns event_trigger language plpgsql as 'begin end'")
    change.run("create event trigger watching on ddl_command_end execute function shop.event()")
    found = dependents.warnings(change.connection, change.member, change.change)
    for part in ("by_day", '"bigger" is dropped and made anew', "0A000", "currval", '"watching"', '"plainly" holds'):
        assert any(part in line for line in found), part
    assert any("everything_there_is" in line for line in found)


def test_what_is_done_after_a_swap_is_understood_and_may_be_done_again(hanging: Hang) -> None:
    change = hanging()
    change.dress()
    change.swap()
    statements = dependents.after(change.member, change.change, "forward")
    assert len([statement for text in statements for statement in parse.statements(text)]) == len(statements) == 4
    change.run(*statements)
