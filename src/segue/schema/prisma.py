"""Read `schema.prisma` files: models, enums, fields and their attributes, as values.

The file's grammar is Prisma's: blocks of lines, `//` and `///` comments, attributes with `@` on fields and `@@` on
blocks. Whatever Prisma would refuse is refused here with line and column.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NoReturn

from segue.errors import InvalidInput

SCALARS = ("String", "Boolean", "Int", "BigInt", "Float", "Decimal", "DateTime", "Json", "Bytes")
ACTIONS = ("Cascade", "Restrict", "NoAction", "SetNull", "SetDefault")


class PrismaError(InvalidInput):
    """A schema.prisma file is wrong; the message names file, line and column, `details` show the line."""

    def __init__(self, message: str, *, line: int, column: int, hint: str | None = None, details: list[str]) -> None:
        super().__init__(message, hint=hint, details=details)
        self.line = line
        self.column = column


# --- values -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Where something stands in the file, both from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function, e.g. `now()`, `dbgenerated("…")`, or a field with options in an index: `name(sort: Desc)`."""

    name: str
    arguments: tuple[Value, ...] = ()
    named: tuple[tuple[str, Value], ...] = ()


@dataclass(frozen=True, slots=True)
class Word:
    """A bare word: a field's name, an enum's value, `true`, `Cascade`."""

    text: str


Value = str | int | float | Word | Call | tuple["Value", ...]


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute with its arguments; the name is without `@`, e.g. `db.VarChar`."""

    name: str
    arguments: tuple[Value, ...]
    named: tuple[tuple[str, Value], ...]
    place: Place

    def get(self, name: str, position: int | None = 0) -> Value | None:
        """Return the argument of this name, or the unnamed one at this position; None when it is left out."""
        for key, value in self.named:
            if key == name:
                return value
        if position is not None and position < len(self.arguments):
            return self.arguments[position]
        return None


@dataclass(frozen=True, slots=True)
class Relation:
    """What `@relation` says; `fields` and `references` are empty on the side without the foreign key."""

    fields: tuple[str, ...]
    references: tuple[str, ...]
    on_delete: str | None
    on_update: str | None
    name: str | None
    constraint: str | None


@dataclass(frozen=True, slots=True)
class Field:
    """A field of a model. `default` is what stands in `@default(…)`: `true`, `"text"` or `now()` as a value."""

    name: str
    type: str
    column: str
    optional: bool
    many: bool
    is_id: bool
    is_unique: bool
    default: Value | None
    updated_at: bool
    native: tuple[str, tuple[int, ...]] | None  # of @db.VarChar(20): ("VarChar", (20,))
    relation: Relation | None
    unsupported: bool
    comment: str
    place: Place


@dataclass(frozen=True, slots=True)
class Key:
    """An `@@id`, `@@unique` or `@@index` over fields, by their names in the file; `name` is the database's."""

    fields: tuple[str, ...]
    name: str | None
    place: Place


@dataclass(frozen=True, slots=True)
class Model:
    """A model (or a view) with everything that it says."""

    name: str
    table: str
    fields: tuple[Field, ...]
    id: tuple[str, ...]  # names of fields
    uniques: tuple[Key, ...]
    indexes: tuple[Key, ...]
    is_view: bool
    comment: str
    place: Place

    def field(self, name: str) -> Field:
        """Return the field of this name; KeyError when there is none."""
        for each in self.fields:
            if each.name == name:
                return each
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class Enum:
    """An enum: its values as the file names them, and for each, in the same order, as the database has it."""

    name: str
    database_name: str
    names: tuple[str, ...]
    values: tuple[str, ...]
    comment: str
    place: Place


@dataclass(frozen=True, slots=True)
class Schema:
    """A whole file."""

    models: tuple[Model, ...]
    enums: tuple[Enum, ...]
    provider: str | None  # of the datasource, e.g. postgresql

    def model(self, name: str) -> Model:
        """Return the model of this name; KeyError when there is none."""
        for each in self.models:
            if each.name == name:
                return each
        raise KeyError(name)


# --- reading ------------------------------------------------------------------------------------------------------


def read(text: str, *, source: str = "schema.prisma", elsewhere: Collection[str] = ()) -> Schema:
    """Return the schema that a file describes.

    `elsewhere` are models that other files define: a field may have them as its type. Raises PrismaError.
    """
    return _Reader(text, source, frozenset(elsewhere)).schema()


_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\f\v\ufeff]+)
      | (?P<doc>///[^\n]*)
      | (?P<comment>//[^\n]*|/\*.*?\*/)
      | (?P<newline>\n)
      | (?P<string>"(?:[^"\\\n]|\\.)*")
      | (?P<number>-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?)
      | (?P<word>[A-Za-z][A-Za-z0-9_-]*)
      | (?P<mark>@@|@|[{}()\[\]:,.=?!])
    """,
    re.VERBOSE | re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # of the pattern above, or "end"
    text: str
    offset: int


@dataclass
class _Line:
    """What one line of a block says, before its meaning is looked at."""

    name: _Token
    type: str = ""
    optional: bool = False
    many: bool = False
    unsupported: bool = False
    type_at: _Token | None = None
    attributes: list[Attribute] = field(default_factory=list)
    comment: str = ""


class _Reader:
    """Reads one file: first its form, then, when all names are known, its meaning."""

    def __init__(self, text: str, source: str, elsewhere: frozenset[str]) -> None:
        self.text = text
        self.source = source
        self.elsewhere = elsewhere
        self.tokens = list(self._tokens())
        self.at = 0

    # form

    def _tokens(self) -> Iterator[_Token]:
        offset = 0
        while offset < len(self.text):
            match = _TOKEN.match(self.text, offset)
            if match is None:
                what = "a text without an end" if self.text[offset] == '"' else f'"{self.text[offset]}" is out of place'
                self._fail(what, offset)
            kind = match.lastgroup or ""
            if kind != "space":
                yield _Token(kind, match.group(), offset)
            offset = match.end()
        yield _Token("end", "", len(self.text))

    def _place(self, offset: int) -> Place:
        before = self.text[:offset]
        return Place(before.count("\n") + 1, offset - (before.rfind("\n") + 1) + 1)

    def _fail(self, message: str, at: _Token | Place | int, hint: str | None = None) -> NoReturn:
        place = at if isinstance(at, Place) else self._place(at if isinstance(at, int) else at.offset)
        line = (self.text.splitlines() or [""])[place.line - 1 : place.line]
        raise PrismaError(
            f"{self.source}:{place.line}:{place.column}: {message}",
            line=place.line,
            column=place.column,
            hint=hint,
            details=[*line, " " * (place.column - 1) + "^"],
        )

    @property
    def _here(self) -> _Token:
        return self.tokens[self.at]

    def _is(self, *texts: str) -> bool:
        return self._here.kind in ("mark", "newline", "word") and self._here.text in texts

    def _take(self) -> _Token:
        token = self.tokens[self.at]
        if token.kind != "end":
            self.at += 1
        return token

    def _need(self, text: str, what: str = "") -> _Token:
        if not self._is(text):
            self._fail(f'expected "{text}"{what} but found {self._named()}', self._here)
        return self._take()

    def _word(self, what: str) -> _Token:
        if self._here.kind != "word":
            self._fail(f"expected {what} but found {self._named()}", self._here)
        return self._take()

    def _named(self) -> str:
        names = {"end": "the end of the file", "newline": "the end of the line"}
        return names.get(self._here.kind, f'"{self._here.text}"')

    def _blank(self) -> str:
        """Skip newlines and comments, and return the `///` comments among them: they document what follows."""
        said: list[str] = []
        while self._here.kind in ("newline", "comment", "doc"):
            token = self._take()
            if token.kind == "doc":
                said.append(token.text[3:].strip())
        return "\n".join(said)

    def schema(self) -> Schema:
        """Return the file's meaning."""
        blocks: list[tuple[str, _Token, list[_Line], list[Attribute], str]] = []
        provider: str | None = None
        while True:
            comment = self._blank()
            if self._here.kind == "end":
                break
            keyword = self._word("model, enum, view, datasource or generator")
            if keyword.text in ("datasource", "generator"):
                found = self._settings()
                provider = found if keyword.text == "datasource" else provider
            elif keyword.text in ("model", "view", "enum"):
                name = self._word("a name")
                lines, attributes = self._body(keyword.text)
                blocks.append((keyword.text, name, lines, attributes, comment))
            elif keyword.text == "type":
                self._fail('"type" blocks exist for MongoDB only', keyword)
            else:
                self._fail(f'"{keyword.text}" does not begin a block', keyword, hint="model, enum, view or datasource")
        return self._meaning(blocks, provider)

    def _settings(self) -> str | None:
        """Read a datasource or generator block and return its provider."""
        self._word("a name")
        self._need("{")
        provider: str | None = None
        while True:
            self._blank()
            if self._is("}"):
                self._take()
                return provider
            name = self._word('a setting or "}"')
            self._need("=")
            value = self._value()
            if name.text == "provider" and isinstance(value, str):
                provider = value

    def _body(self, block: str) -> tuple[list[_Line], list[Attribute]]:
        lines: list[_Line] = []
        attributes: list[Attribute] = []
        self._need("{")
        while True:
            comment = self._blank()
            if self._is("}"):
                self._take()
                return lines, attributes
            if self._is("@@"):
                attributes.append(self._attribute("@@"))
                self._line_end()
                continue
            line = _Line(self._word('a name or "}"'))
            if block != "enum":
                self._type(line)
            while self._is("@"):
                line.attributes.append(self._attribute("@"))
            trailing = self._line_end()
            line.comment = "\n".join(part for part in (comment, trailing) if part)
            lines.append(line)

    def _line_end(self) -> str:
        """Require the end of the line and return the comment there."""
        said = ""
        if self._here.kind in ("comment", "doc"):
            said = self._take().text.lstrip("/*").rstrip("*/").strip()
        if self._here.kind not in ("newline", "end") and not self._is("}"):
            self._fail(f"expected an attribute or the end of the line but found {self._named()}", self._here)
        return said

    def _type(self, line: _Line) -> None:
        line.type_at = self._word(f'the type of "{line.name.text}"')
        line.type = line.type_at.text
        if line.type == "Unsupported":
            self._need("(")
            value = self._value()
            if not isinstance(value, str):
                self._fail("Unsupported takes the type as a text", line.type_at)
            self._need(")")
            line.type, line.unsupported = value, True
        if self._is("["):
            self._take()
            self._need("]")
            line.many = True
        if self._is("?"):
            if line.many:
                self._fail("a list cannot be optional", self._here, hint='leave out the "?"')
            self._take()
            line.optional = True

    def _attribute(self, sign: str) -> Attribute:
        place = self._place(self._need(sign).offset)
        name = self._word("the name of an attribute").text
        while self._is("."):
            self._take()
            name += "." + self._word("the name of an attribute").text
        arguments, named = self._arguments() if self._is("(") else ((), ())
        return Attribute(name, arguments, named, place)

    def _arguments(self) -> tuple[tuple[Value, ...], tuple[tuple[str, Value], ...]]:
        self._need("(")
        arguments: list[Value] = []
        named: list[tuple[str, Value]] = []
        self._blank()
        while not self._is(")"):
            following = self.tokens[self.at + 1] if self._here.kind == "word" else None
            if following is not None and following.text == ":":
                name = self._take().text
                self._take()
                self._blank()
                named.append((name, self._value()))
            else:
                arguments.append(self._value())
            self._blank()
            if not self._is(")"):
                self._need(",", ' or ")"')
                self._blank()
        self._take()
        return tuple(arguments), tuple(named)

    def _value(self) -> Value:
        token = self._here
        if token.kind == "string":
            return _unquoted(self._take().text)
        if token.kind == "number":
            text = self._take().text
            return float(text) if any(sign in text for sign in ".eE") else int(text)
        if self._is("["):
            return self._list()
        name = self._word("a value").text
        while self._is("."):
            self._take()
            name += "." + self._word("a name").text
        if self._is("("):
            arguments, named = self._arguments()
            return Call(name, arguments, named)
        return Word(name)

    def _list(self) -> tuple[Value, ...]:
        self._need("[")
        values: list[Value] = []
        self._blank()
        while not self._is("]"):
            values.append(self._value())
            self._blank()
            if not self._is("]"):
                self._need(",", ' or "]"')
                self._blank()
        self._take()
        return tuple(values)

    # meaning

    def _meaning(
        self, blocks: list[tuple[str, _Token, list[_Line], list[Attribute], str]], provider: str | None
    ) -> Schema:
        seen: set[str] = set()
        for _, name, _, _, _ in blocks:
            if name.text in seen or name.text in SCALARS:
                self._fail(f'the name "{name.text}" is taken', name)
            seen.add(name.text)
        enums = {
            name.text: self._enum(name, lines, ats, said) for kind, name, lines, ats, said in blocks if kind == "enum"
        }
        types = {name.text for kind, name, *_ in blocks if kind != "enum"} | self.elsewhere
        models = [
            self._model(name, lines, ats, is_view=kind == "view", said=said, enums=enums, types=types)
            for kind, name, lines, ats, said in blocks
            if kind != "enum"
        ]
        self._check_references(models)
        return Schema(tuple(models), tuple(enums.values()), provider)

    def _enum(self, name: _Token, lines: list[_Line], attributes: list[Attribute], said: str) -> Enum:
        names: list[str] = []
        values: list[str] = []
        for line in lines:
            value = line.name.text
            names.append(value)
            for attribute in line.attributes:
                if attribute.name != "map":
                    self._fail(f'"@{attribute.name}" does not belong to an enum\'s value', attribute.place)
                value = self._text(attribute, "name")
            if value in values:
                self._fail(f'the value "{value}" is there twice', line.name)
            values.append(value)
        if not values:
            self._fail(f'the enum "{name.text}" has no value', name)
        mapped = name.text
        for attribute in attributes:
            if attribute.name == "map":
                mapped = self._text(attribute, "name")
            elif attribute.name != "schema":
                self._fail(f'"@@{attribute.name}" does not belong to an enum', attribute.place)
        return Enum(name.text, mapped, tuple(names), tuple(values), said, self._place(name.offset))

    def _model(
        self,
        name: _Token,
        lines: list[_Line],
        attributes: list[Attribute],
        *,
        is_view: bool,
        said: str,
        enums: dict[str, Enum],
        types: Collection[str],
    ) -> Model:
        fields: list[Field] = []
        for line in lines:
            if any(line.name.text == each.name for each in fields):
                self._fail(f'the field "{line.name.text}" is there twice', line.name)
            fields.append(self._field(line, enums, types))
        table = name.text
        ids = [each.name for each in fields if each.is_id]
        if len(ids) > 1:
            self._fail(
                f'the model "{name.text}" has two fields with @id', name, hint="write @@id([…]) for a key of two"
            )
        uniques: list[Key] = [Key((each.name,), None, each.place) for each in fields if each.is_unique]
        indexes: list[Key] = []
        for attribute in attributes:
            if attribute.name == "map":
                table = self._text(attribute, "name")
            elif attribute.name in ("id", "unique", "index", "fulltext"):
                key = self._key(attribute, name.text, fields)
                if attribute.name == "id":
                    if ids:
                        self._fail(f'the model "{name.text}" has two keys', attribute.place)
                    ids = list(key.fields)
                else:
                    (uniques if attribute.name == "unique" else indexes).append(key)
            elif attribute.name not in ("ignore", "schema"):
                self._fail(f'unknown attribute "@@{attribute.name}"', attribute.place)
        if not ids and not uniques and not is_view:
            self._fail(f'the model "{name.text}" has no @id, @@id or @unique', name)
        place = self._place(name.offset)
        return Model(name.text, table, tuple(fields), tuple(ids), tuple(uniques), tuple(indexes), is_view, said, place)

    def _field(self, line: _Line, enums: dict[str, Enum], types: Collection[str]) -> Field:
        is_model = line.type in types and not line.unsupported
        if not (is_model or line.unsupported or line.type in SCALARS or line.type in enums):
            assert line.type_at is not None  # noqa: S101 - the form has been read
            self._fail(f'unknown type "{line.type}"', line.type_at, hint="a scalar, an enum, or a model of this schema")
        column, default, relation, native = line.name.text, None, None, None
        flags: set[str] = set()
        for attribute in line.attributes:
            if attribute.name in flags:
                self._fail(f'"@{attribute.name}" is there twice', attribute.place)
            flags.add(attribute.name)
            if attribute.name == "map":
                column = self._text(attribute, "name")
            elif attribute.name == "default":
                default = self._default(attribute, line, enums)
            elif attribute.name == "relation":
                relation = self._relation(attribute, is_model)
            elif attribute.name.startswith("db."):
                native = (attribute.name[3:], tuple(size for size in attribute.arguments if isinstance(size, int)))
            elif attribute.name not in ("id", "unique", "updatedAt", "ignore"):
                self._fail(f'unknown attribute "@{attribute.name}"', attribute.place)
        if "updatedAt" in flags and line.type != "DateTime":
            self._fail("@updatedAt belongs to a DateTime", line.name)
        if "id" in flags and (line.optional or line.many):
            self._fail(f'the key "{line.name.text}" cannot be optional or a list', line.name)
        return Field(
            name=line.name.text,
            type=line.type,
            column=column,
            optional=line.optional,
            many=line.many,
            is_id="id" in flags,
            is_unique="unique" in flags,
            default=default,
            updated_at="updatedAt" in flags,
            native=native,
            relation=relation or (Relation((), (), None, None, None, None) if is_model else None),
            unsupported=line.unsupported,
            comment=line.comment,
            place=self._place(line.name.offset),
        )

    def _default(self, attribute: Attribute, line: _Line, enums: dict[str, Enum]) -> Value:
        value = attribute.get("value")
        if value is None:
            self._fail("@default needs a value", attribute.place)
        if isinstance(value, tuple) is not line.many and not isinstance(value, Call):
            self._fail(
                f"this default does not fit {'a list' if line.many else 'the type ' + line.type}", attribute.place
            )
        fits: dict[str, tuple[type, ...]] = {
            "String": (str,),
            "Json": (str,),
            "DateTime": (str,),
            "Bytes": (str,),
            "Int": (int,),
            "BigInt": (int,),
            "Float": (int, float),
            "Decimal": (int, float, str),
            "Boolean": (Word,),
        }
        for each in value if isinstance(value, tuple) else (value,):
            if isinstance(each, Call):
                if each.name not in (
                    "now",
                    "autoincrement",
                    "cuid",
                    "uuid",
                    "ulid",
                    "nanoid",
                    "dbgenerated",
                    "sequence",
                ):
                    self._fail(f'unknown function "{each.name}"', attribute.place)
            elif line.type in enums:
                if not isinstance(each, Word) or each.text not in enums[line.type].names:
                    self._fail(f'the default must be a value of "{line.type}"', attribute.place)
            elif not isinstance(each, fits.get(line.type, (object,))):
                self._fail(f"this default does not fit the type {line.type}", attribute.place)
            elif line.type == "Boolean" and each not in (Word("true"), Word("false")):
                self._fail("this default does not fit the type Boolean", attribute.place, hint="true or false")
        return value

    def _relation(self, attribute: Attribute, is_model: bool) -> Relation:
        if not is_model:
            self._fail("@relation belongs to a field whose type is a model", attribute.place)
        known = ("name", "fields", "references", "onDelete", "onUpdate", "map")
        for name, _ in attribute.named:
            if name not in known:
                self._fail(f'unknown argument "{name}"', attribute.place, hint=", ".join(known))
        fields = self._names(attribute.get("fields", None), attribute)
        references = self._names(attribute.get("references", None), attribute)
        if len(fields) != len(references):
            self._fail("@relation needs as many references as fields", attribute.place)
        actions: dict[str, str | None] = {}
        for key in ("onDelete", "onUpdate"):
            action = attribute.get(key, None)
            if action is not None and not (isinstance(action, Word) and action.text in ACTIONS):
                self._fail(f"unknown action for {key}", attribute.place, hint=", ".join(ACTIONS))
            actions[key] = action.text if isinstance(action, Word) else None
        named, constraint = attribute.get("name"), attribute.get("map", None)
        return Relation(
            fields,
            references,
            actions["onDelete"],
            actions["onUpdate"],
            named if isinstance(named, str) else None,
            constraint if isinstance(constraint, str) else None,
        )

    def _names(self, value: Value | None, attribute: Attribute) -> tuple[str, ...]:
        """Return the fields of a list such as `[a, b(sort: Desc)]`."""
        if value is None:
            return ()
        if not isinstance(value, tuple):
            self._fail("expected a list of fields", attribute.place, hint="write [a, b]")
        names: list[str] = []
        for each in value:
            if isinstance(each, Word):
                names.append(each.text)
            elif isinstance(each, Call):
                names.append(each.name)
            else:
                self._fail("expected a list of fields", attribute.place, hint="write [a, b]")
        return tuple(names)

    def _key(self, attribute: Attribute, model: str, fields: list[Field]) -> Key:
        names = self._names(attribute.get("fields"), attribute)
        if not names:
            self._fail(f'"@@{attribute.name}" needs fields', attribute.place)
        for name in names:
            found = next((each for each in fields if each.name == name), None)
            if found is None or found.relation is not None:
                self._fail(f'"{model}" has no column for a field "{name}"', attribute.place)
        mapped = attribute.get("map", None)
        return Key(names, mapped if isinstance(mapped, str) else None, attribute.place)

    def _text(self, attribute: Attribute, name: str) -> str:
        value = attribute.get(name)
        if not isinstance(value, str) or not value:
            self._fail(f'"{attribute.name}" needs a name in double quotes', attribute.place)
        return value

    def _check_references(self, models: list[Model]) -> None:
        by_name = {model.name: model for model in models}
        for model in models:
            for each in model.fields:
                if each.relation is None:
                    continue
                for mine in each.relation.fields:
                    if not any(mine == other.name and other.relation is None for other in model.fields):
                        self._fail(f'"{model.name}" has no field "{mine}"', each.place)
                target = by_name.get(each.type)
                for theirs in each.relation.references if target is not None else ():
                    if not any(theirs == other.name for other in (target.fields if target else ())):
                        self._fail(f'"{each.type}" has no field "{theirs}"', each.place)


def _unquoted(text: str) -> str:
    plain = {"n": "\n", "t": "\t", "r": "\r"}
    return re.sub(
        r"\\(u[0-9a-fA-F]{4}|.)",
        lambda found: chr(int(found[1][1:], 16)) if len(found[1]) > 1 else plain.get(found[1], found[1]),
        text[1:-1],
    )
