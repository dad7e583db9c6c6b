"""The reader of schema.prisma: what it understands, and where it says that something is wrong."""

from __future__ import annotations

import pytest

from segue.schema.prisma import Call, PrismaError, Relation, Word, read
from segue.schema.prisma_tables import Column, Conventions, ForeignKey, tables

SHOP = """
// A shop.
datasource db {
  provider = "postgresql"
  url      = env("DATABASE_URL")
}

generator client {
  provider        = "prisma-client-js"
  previewFeatures = ["views"]
}

/// Who buys.
model Customer {
  id        Int       @id @default(autoincrement())
  email     String    @unique @db.VarChar(254) // for the bill
  /// How it is going.
  state     State     @default(ACTIVE)
  tags      String[]  @default(["new", "it's"])
  balance   Decimal   @default(0) @db.Decimal(12, 2)
  token     String    @default(dbgenerated("gen_random_uuid()")) @db.Uuid
  seen      DateTime? @db.Timestamptz(6)
  place     Unsupported("point")?
  changed   DateTime  @updatedAt
  orders    Order[]   @relation("buyer")

  @@index([state, email(sort: Desc)], map: "by_state")
  @@map("customers")
}

model Order {
  shop    Int
  number  BigInt
  buyerId Int?     @map("buyer_id")
  buyer   Customer? @relation(name: "buyer", fields: [buyerId], references: [id], onUpdate: NoAction)
  lines   Line[]
  /* some
     day */
  note    String   @default("a \\"b\\" \\u00e9\\n")

  @@id([shop, number])
  @@unique(
    fields: [shop, buyerId], // both
    name: "one"
  )
  @@map("orders")
}

model Line {
  id     String @id @default(cuid())
  shop   Int
  number BigInt
  order  Order  @relation(fields: [shop, number], references: [shop, number], onDelete: Cascade, map: "line_order")
}

enum State {
  ACTIVE
  GONE   @map("gone") // for good

  @@map("customer_state")
}

view Totals {
  id Int @unique
}
"""


def test_a_model_with_everything() -> None:
    schema = read(SHOP)
    assert schema.provider == "postgresql"
    assert [model.name for model in schema.models] == ["Customer", "Order", "Line", "Totals"]
    customer = schema.model("Customer")
    assert (customer.table, customer.id, customer.comment) == ("customers", ("id",), "Who buys.")
    assert customer.field("id").default == Call("autoincrement")
    email = customer.field("email")
    assert (email.is_unique, email.native, email.comment) == (True, ("VarChar", (254,)), "for the bill")
    assert (customer.field("state").default, customer.field("state").comment) == (Word("ACTIVE"), "How it is going.")
    assert customer.field("tags").default == ("new", "it's")
    assert customer.field("place").unsupported
    assert customer.field("changed").updated_at
    assert customer.field("orders").relation == Relation((), (), None, None, "buyer", None)
    assert [(key.fields, key.name) for key in customer.indexes] == [(("state", "email"), "by_state")]
    order = schema.model("Order")
    assert (order.id, [key.fields for key in order.uniques]) == (("shop", "number"), [("shop", "buyerId")])
    assert order.field("note").default == 'a "b" é\n'
    assert schema.model("Totals").is_view
    (state,) = schema.enums
    assert (state.database_name, state.names, state.values) == (
        "customer_state",
        ("ACTIVE", "GONE"),
        ("ACTIVE", "gone"),
    )


def test_the_tables_that_prisma_would_create() -> None:
    customers, orders, lines = tables(read(SHOP))
    assert customers.columns == (
        Column("id", "integer", False, "GENERATED"),
        Column("email", "character varying(254)", False, None),
        Column("state", '"customer_state"', False, "'ACTIVE'::\"customer_state\""),
        Column("tags", "text[]", True, "ARRAY['new'::text, 'it''s'::text]::text[]"),
        Column("balance", "numeric(12,2)", False, "0"),
        Column("token", "uuid", False, "gen_random_uuid()"),
        Column("seen", "timestamp(6) with time zone", True, None),
        Column("place", "point", True, None),
        Column("changed", "timestamp(3) without time zone", False, None),
    )
    assert customers.uniques == (("email",),)
    assert orders.primary_key == ("shop", "number")
    assert orders.foreign_keys == (ForeignKey(("buyer_id",), "customers", ("id",), "SET NULL", "NO ACTION"),)
    assert lines.foreign_keys == (ForeignKey(("shop", "number"), "orders", ("shop", "number"), "CASCADE", "CASCADE"),)


def test_a_required_relation_restricts_by_default() -> None:
    text = """
        model A {
          id Int @id
          b  Int
          to B   @relation(fields: [b], references: [id])
        }
        model B {
          id Int @id
          as A[]
        }
    """
    assert tables(read(text))[0].foreign_keys[0].on_delete == "RESTRICT"


def test_a_team_may_have_other_conventions() -> None:
    text = "model A {\n id Int @id\n at DateTime @default(now())\n of Int[]\n}"
    (table,) = tables(read(text), Conventions(date_time="timestamp with time zone", nullable_lists=False))
    assert table.columns[1:] == (
        Column("at", "timestamp with time zone", False, "CURRENT_TIMESTAMP"),
        Column("of", "integer[]", False, None),
    )


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    assert read("\ufeff" + SHOP.replace("\n", "\r\n")).model("Customer").comment == "Who buys."


def test_an_empty_file_has_nothing() -> None:
    assert read("").models == ()


def test_models_of_other_files_may_be_named() -> None:
    text = "model A {\n id Int @id\n b B[]\n}"
    assert read(text, elsewhere=("B",)).model("A").field("b").relation is not None


@pytest.mark.parametrize(
    ("line", "at", "message"),
    [
        ("  x Strin", "3:5", 'unknown type "Strin"'),
        ("  x String[]?", "3:13", "a list cannot be optional"),
        ("  x String @db.Text @uniq", "3:21", 'unknown attribute "@uniq"'),
        ("  x String @unique @unique", "3:20", '"@unique" is there twice'),
        ('  x Int @default("a")', "3:9", "this default does not fit the type Int"),
        ("  x Boolean @default(maybe)", "3:13", "this default does not fit the type Boolean"),
        ("  x Int @default(today())", "3:9", 'unknown function "today"'),
        ("  x Int[] @default(1)", "3:11", "this default does not fit a list"),
        ("  x E @default(C)", "3:7", 'the default must be a value of "E"'),
        ("  x Int @updatedAt", "3:3", "@updatedAt belongs to a DateTime"),
        ("  x Int? @id", "3:3", 'the key "x" cannot be optional or a list'),
        ("  x Int @id", "1:7", 'the model "A" has two fields with @id'),
        ("  id Int", "3:3", 'the field "id" is there twice'),
        ("  x", "3:4", 'expected the type of "x" but found the end of the line'),
        ("  x Int @map(y)", "3:9", '"map" needs a name in double quotes'),
        ("  x Int @map", "3:9", '"map" needs a name in double quotes'),
        ("  x Int @", "3:10", "expected the name of an attribute but found the end of the line"),
        ("  x Int x", "3:9", 'expected an attribute or the end of the line but found "x"'),
        ("  x Int @relation(fields: [id], references: [id])", "3:9", "@relation belongs to a field"),
        ("  x B? @relation(fields: [id], references: [])", "3:8", "@relation needs as many references as fields"),
        ("  x B? @relation(fields: [no], references: [id])", "3:3", '"A" has no field "no"'),
        ("  x B? @relation(fields: [id], references: [no])", "3:3", '"B" has no field "no"'),
        ("  x B? @relation(fields: [id], references: [id], onDelete: Drop)", "3:8", "unknown action for onDelete"),
        ("  x B? @relation(columns: [id])", "3:8", 'unknown argument "columns"'),
        ("  @@index([id, no])", "3:3", '"A" has no column for a field "no"'),
        ("  @@index()", "3:3", '"@@index" needs fields'),
        ("  @@index(id)", "3:3", "expected a list of fields"),
        ("  @@id([id])", "3:3", 'the model "A" has two keys'),
        ("  @@indx([id])", "3:3", 'unknown attribute "@@indx"'),
        ("  @@index([id id])", "3:15", 'expected "," or "]" but found "id"'),
        ('  x String @default("a)', "3:21", "a text without an end"),
        ("  x Int ; ", "3:9", '";" is out of place'),
        ("  x Unsupported(1)", "3:5", "Unsupported takes the type as a text"),
    ],
)
def test_a_mistake_is_shown_where_it_is(line: str, at: str, message: str) -> None:
    text = f"model A {{\n  id Int @id\n{line}\n}}\nmodel B {{\n  id Int @id\n}}\nenum E {{\n  V\n}}\n"
    with pytest.raises(PrismaError) as wrong:
        read(text, source="shop.prisma")
    assert wrong.value.message.startswith(f"shop.prisma:{at}: {message}")
    assert wrong.value.details[0] == text.splitlines()[wrong.value.line - 1]
    assert wrong.value.details[1].index("^") == wrong.value.column - 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model A {\n id Int @id\n", 'a.prisma:3:1: expected a name or "}" but found the end of the file'),
        ("modle A {\n}", 'a.prisma:1:1: "modle" does not begin a block'),
        ("type A {\n}", 'a.prisma:1:1: "type" blocks exist for MongoDB only'),
        ("model A {\n x Int\n}", 'a.prisma:1:7: the model "A" has no @id, @@id or @unique'),
        ("model String {\n id Int @id\n}", 'a.prisma:1:7: the name "String" is taken'),
        ("enum A {\n}", 'a.prisma:1:6: the enum "A" has no value'),
        ("enum A {\n a\n a\n}", 'a.prisma:3:2: the value "a" is there twice'),
        ("enum A {\n a @id\n}", 'a.prisma:2:4: "@id" does not belong to an enum\'s value'),
        ("model A", 'a.prisma:1:8: expected "{" but found the end of the file'),
        ("datasource db {\n provider\n}", 'a.prisma:2:10: expected "=" but found the end of the line'),
    ],
)
def test_a_file_that_is_wrong(text: str, message: str) -> None:
    with pytest.raises(PrismaError) as wrong:
        read(text, source="a.prisma")
    assert wrong.value.message == message
