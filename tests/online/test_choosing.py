"""What the server does online by itself is done so, the rest by a shadow; what stands in the way is said at once."""

from __future__ import annotations

import pytest
from fix_online import prepare_change, run_sql, site_of
from fix_targets import Open, apply, drop_role, make_role, rows

from segue.databases.postgresql.online import choosing, preflight, reading, shadow
from segue.errors import StepFailed
from segue.model.online import ChangeSpec, TableChange

TABLE = """
    CREATE TABLE "T.x" (
        id int PRIMARY KEY, a int, b varchar(9) DEFAULT 'x', c text NOT NULL, d numeric(9, 2) CHECK (d > 0),
        UNIQUE (c, id), o int CONSTRAINT fk REFERENCES o, st text, u timestamptz
    )
"""
#: ALTERs that need no shadow, with how many statements they become.
ONLINE = {
    "ADD n int DEFAULT 5 NOT NULL, ADD m text, ALTER b TYPE varchar(20), ALTER d TYPE numeric(12, 2)": 1,
    "ALTER b TYPE text": 1,
    'ALTER b TYPE varchar(9) COLLATE "C"': 1,
    "ALTER a SET NOT NULL": 4,
    "ALTER c DROP NOT NULL": 1,
    "ADD CHECK (a > 0)": 2,
    "ADD FOREIGN KEY (a) REFERENCES o": 2,
    "ADD CONSTRAINT ua UNIQUE (a, c)": 2,
    'DROP CONSTRAINT "T.x_pkey", ADD PRIMARY KEY (a)': 7,
    "ADD n int UNIQUE CHECK (n > 0)": 5,
    "ADD n int DEFAULT 1 REFERENCES o": 3,
    "ALTER b DROP DEFAULT, ALTER b SET DEFAULT 'y', ALTER b SET STATISTICS 5, SET (fillfactor = 50)": 1,
    "ALTER st SET STORAGE EXTERNAL, ALTER st SET COMPRESSION pglz, ALTER st SET (n_distinct = 4)": 1,
    'DROP CONSTRAINT fk, DROP CONSTRAINT "T.x_d_check"': 1,
    "RENAME a TO aa": 1,
    "RENAME CONSTRAINT fk TO kf": 1,
    "ALTER u TYPE timestamptz": 1,
    "REPLICA IDENTITY FULL, ENABLE ROW LEVEL SECURITY": 1,
}
#: ALTERs that need one, with the beginning of the reason.
SHADOWED = {
    "ALTER id TYPE bigint": 'ALTER COLUMN id TYPE bigint rewrites 30 rows of "T.x" under ACCESS EXCLUSIVE',
    "ALTER a TYPE text USING a::text, ADD m int": "ALTER COLUMN a TYPE text USING a::text rewrites 30 rows",
    "ADD n uuid DEFAULT gen_random_uuid()": "ADD COLUMN n uuid DEFAULT gen_random_uuid() rewrites 30 rows",
    "ADD n int GENERATED ALWAYS AS (id * 2) STORED": "ADD COLUMN n int GENERATED ALWAYS AS (id * 2) STORED rewrites",
    "ADD EXCLUDE USING btree (a WITH =)": "ADD EXCLUDE (a WITH =) builds an index over 30 rows",
    "SET UNLOGGED": "SET UNLOGGED rewrites 30 rows",
    "ALTER b TYPE varchar(3)": "ALTER COLUMN b TYPE varchar(3) rewrites 30 rows",
    'ALTER c TYPE text COLLATE "C"': 'ALTER COLUMN c TYPE text COLLATE "C" builds indexes anew',
}


@pytest.fixture
def table(database: str) -> str:
    """Give a database with the table in it."""
    run_sql(database, "CREATE TABLE o (id int PRIMARY KEY)", "INSERT INTO o SELECT generate_series(1, 30)", TABLE)
    run_sql(database, """INSERT INTO "T.x" (id, a, c, d, o) SELECT n, n, n, n, n FROM generate_series(1, 30) AS n""")
    run_sql(database, "ANALYZE")
    return database


@pytest.mark.parametrize("alter", ONLINE)
def test_online_forms_do_what_the_alter_says_and_lead_back(table: str, open_target: Open, alter: str) -> None:
    target = open_target(table)
    site = site_of(target)
    before = reading.read(site.look, '"T.x"')
    spec = ChangeSpec((TableChange('"T.x"', (alter,)),), reversible=False)
    choice = choosing.choose(site, spec)
    assert (choice.strategy, len(choice.native)) == ("native-online", ONLINE[alter])
    for number, text in enumerate(choice.native):
        apply(target, text, step=f"do-{number}")
    after = reading.read(site.look, '"T.x"')
    assert (after.fingerprint() != before.fingerprint()) == (alter != "ALTER u TYPE timestamptz")
    assert not any("segue_nn" in rule.name for rule in after.constraints)
    for number, text in enumerate(text for undo in reversed(choice.undo) for text in undo):
        apply(target, text, step=f"back-{number}")
    if not any(choice.lost):
        assert reading.read(site.look, '"T.x"').fingerprint() == before.fingerprint()


def test_what_could_not_be_taken_back_gets_a_shadow_unless_no_way_back_is_wanted(table: str, open_target: Open) -> None:
    site = site_of(open_target(table))
    change = (TableChange('"T.x"', ("DROP COLUMN a",)),)
    choice = choosing.choose(site, ChangeSpec(change))
    assert (choice.strategy, choice.native) == ("shadow-table", ())
    assert choice.reasons == ["DROP a takes a moment, but could not be taken back"]
    with pytest.raises(StepFailed, match="could not be taken back") as refused:
        choosing.choose(site, ChangeSpec(change, strategy="native-online"))
    assert refused.value.details == ["DROP a"]
    asked = ChangeSpec(change, strategy="native-online", reversible=False)
    assert choosing.choose(site, asked).strategy == "native-online"
    assert choosing.choose(site, ChangeSpec(change, reversible=False)).strategy == "native-online"


@pytest.mark.parametrize("alter", SHADOWED)
def test_shadow_is_taken_with_the_reason(table: str, open_target: Open, alter: str) -> None:
    site = site_of(open_target(table))
    choice = choosing.choose(site, ChangeSpec((TableChange('"T.x"', (alter,)),)))
    assert (choice.strategy, choice.native, len(choice.reasons)) == ("shadow-table", (), 1)
    assert choice.reasons[0].startswith(SHADOWED[alter])
    with pytest.raises(StepFailed, match="no online form") as caught:
        choosing.choose(site, ChangeSpec((TableChange('"T.x"', (alter,)),), strategy="native-online"))
    assert caught.value.details == choice.reasons


def test_shape_means_a_shadow_and_a_wish_is_taken(table: str, open_target: Open) -> None:
    site = site_of(open_target(table))
    assert choosing.choose(site, ChangeSpec((TableChange("o", columns=("id",)),))).strategy == "shadow-table"
    assert choosing.choose(site, ChangeSpec((TableChange("o", partition_by="HASH (id)"),))).strategy == "shadow-table"
    for wish in ("ghost", "shadow-table"):
        assert choosing.choose(site, ChangeSpec((TableChange("o", ("ADD n int",)),), strategy=wish)).strategy == wish
    with pytest.raises(StepFailed, match=r"1\.6 to 2\.65 times slower"):
        choosing.choose(site, ChangeSpec((TableChange("o", ("ADD n int",)),), strategy="pt-online-schema-change"))


@pytest.mark.parametrize(
    ("alter", "reason"),
    [
        ("ADD PRIMARY KEY (a)", "multiple primary keys"),
        ("ADD id int", "already exists"),
        ("ADD n int; DROP TABLE o", "more than one statement"),
        ("ADD", "syntax error"),
    ],
)
def test_what_the_server_would_refuse_is_found_before_it_is_begun(
    table: str, open_target: Open, alter: str, reason: str
) -> None:
    site = site_of(open_target(table))
    with pytest.raises(StepFailed, match=reason):
        choosing.choose(site, ChangeSpec((TableChange('"T.x"', (alter,)),)))


def test_everything_in_the_way_is_said_at_once(any_database: str, open_target: Open) -> None:
    run_sql(
        any_database,
        "CREATE TABLE keyless (a int)",
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY HASH (id)",
        "CREATE TABLE part PARTITION OF p FOR VALUES WITH (MODULUS 1, REMAINDER 0)",
        "CREATE TYPE typed AS (id int)",
        "CREATE TABLE of_type OF typed (PRIMARY KEY (id))",
        "CREATE VIEW v AS SELECT 1 AS id",
        "CREATE SCHEMA repack",
        "CREATE FUNCTION repack.f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$",
        "CREATE TABLE packed (id int PRIMARY KEY)",
        "CREATE TRIGGER repack_trigger AFTER INSERT ON packed FOR EACH ROW EXECUTE FUNCTION repack.f()",
        "CREATE PUBLICATION every FOR ALL TABLES",
    )
    names = ("keyless", "part", "of_type", "v", "packed", "pg_catalog.pg_class", "segue.lease")
    site = site_of(open_target(any_database))
    with pytest.raises(StepFailed) as caught:
        shadow.draw_up(site, "abcdefgh", ChangeSpec(tuple(map(TableChange, names))), "shadow-table")
    text = "\n".join(caught.value.details)
    for part in (
        '"public"."keyless" has no primary key',
        '"public"."part" is a partition of "public"."p"',
        '"public"."of_type" is of the type public.typed',
        '"public"."v" is a view',
        'the trigger "repack_trigger" on "public"."packed"',
        '"pg_catalog"."pg_class" is the server\'s or Segue\'s own',
        '"segue"."lease" is the server\'s or Segue\'s own',
    ):
        assert part in text
    assert "FOR ALL TABLES" not in text  # nobody subscribes


def test_missing_rights_are_named_with_the_owner(any_database: str, open_target: Open) -> None:
    run_sql(any_database, "CREATE TABLE t (id int PRIMARY KEY)", "ALTER TABLE t FORCE ROW LEVEL SECURITY")
    url = make_role(any_database)
    target = open_target(any_database)
    site = site_of(target)
    role = rows(url, "SELECT current_user")[0][0]
    site.look.execute(f'SET ROLE "{role}"'.encode())
    found = preflight.standing(site.look, [reading.find(site.look, "t")])
    site.look.execute("RESET ROLE")
    drop_role(any_database, url)
    beginnings = (
        f'role "{role}" may not create schemas in database "',
        'the schema "segue" of this database belongs to "segue", whose rights',
        '"public"."t" belongs to "segue", and only its owner may change it',
        f'"public"."t" has FORCE ROW LEVEL SECURITY, so that rows may be hidden from "{role}"',
    )
    assert [line.startswith(begin) for line, begin in zip(found, beginnings, strict=True)] == [True] * 4


def test_table_of_another_change_is_refused(database: str, open_target: Open) -> None:
    run_sql(database, "CREATE TABLE t (id int PRIMARY KEY)")
    target = open_target(database, "e_other")
    site = site_of(target)
    (member,) = shadow.draw_up(site, "abcdefgh", ChangeSpec((TableChange("t", ("ADD n int",)),)), "shadow-table")
    assert choosing.refusals(site, (member,)) == []
    prepare_change(target)
    run_sql(
        database,
        "UPDATE segue.change SET blueprint = jsonb_build_object('members', "
        """'[{"table": {"schema_name": "public", "name": "t"}}]'::jsonb)""",
    )
    run_sql(
        database,
        "CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'",
        "CREATE TRIGGER segue_tchange1_insert AFTER INSERT ON t EXECUTE FUNCTION f()",
        "CREATE TRIGGER segue_tchange2_insert AFTER INSERT ON t EXECUTE FUNCTION f()",
    )
    assert choosing.refusals(site, (member,)) == [
        'the trigger "segue_tchange2_insert" on "public"."t" is of another tool\'s change or repacking: '
        "let that end first",
        '"public"."t" is being changed online by execution e_other: let that end (`segue status e_other`), or '
        "`segue rollback e_other` takes it back",
    ]
    run_sql(database, "UPDATE segue.change SET phase = 'reversible'")
    assert "`segue change cleanup e_other --env ENV --now` ends it" in choosing.refusals(site, (member,))[1]


def test_rows_that_do_not_fit_are_counted_before_anything_is_tried_in_place(
    any_database: str, open_target: Open
) -> None:
    run_sql(
        any_database,
        "CREATE TABLE o (id int PRIMARY KEY)",
        "INSERT INTO o VALUES (1)",
        'CREATE TABLE t (id int PRIMARY KEY, a int, "B" text, o int)',
        "INSERT INTO t SELECT g, nullif(g, 5), 'b' || g / 3, 1 + g / 8 FROM generate_series(1, 9) g",
    )
    site = site_of(open_target(any_database))
    refused = {
        "ALTER a SET NOT NULL": '1 row of "public"."t" does not fit NOT NULL of "a"',
        "ADD CONSTRAINT c CHECK (t.a > 3)": '3 rows of "public"."t" do not fit "c"',
        'ADD UNIQUE ("B")': '5 rows of "public"."t" do not fit UNIQUE ("B")',
        "ADD FOREIGN KEY (o) REFERENCES o": '2 rows of "public"."t" do not fit FOREIGN KEY ("o") REFERENCES "o"',
        "ADD FOREIGN KEY (o) REFERENCES public.o (id)": '2 rows of "public"."t" do not fit FOREIGN KEY ("o") REF',
    }
    for alter, line in refused.items():
        choice = choosing.choose(site, ChangeSpec((TableChange("t", (alter,)),)))
        assert (choice.strategy, choice.reasons[0][: len(line)]) == ("shadow-table", line)
    for alter in ("ADD CHECK (id > 0)", "ADD UNIQUE (id, o)", "ADD n int, ADD CHECK (n > 0)"):
        assert choosing.choose(site, ChangeSpec((TableChange("t", (alter,)),))).strategy == "native-online"
    with pytest.raises(StepFailed, match="there are rows that do not fit") as caught:
        choosing.choose(site, ChangeSpec((TableChange("t", ("ALTER a SET NOT NULL",)),), strategy="native-online"))
    assert caught.value.details == [refused["ALTER a SET NOT NULL"]]
    run_sql(any_database, "INSERT INTO t SELECT g, NULL, 'b', 1 FROM generate_series(10, 20011) g")
    with pytest.raises(StepFailed, match="more than 10,000 rows of"):
        choosing.choose(site, ChangeSpec((TableChange("t", ("ALTER a SET NOT NULL",)),)))
