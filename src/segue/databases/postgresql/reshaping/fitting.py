"""Fits a shape to its two databases, and refuses one that does not, before anything is made."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import count
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from segue.databases.postgresql.keys import KEYS
from segue.databases.postgresql.moving.support import qualified, relations
from segue.databases.postgresql.reshaping import terms
from segue.databases.postgresql.reshaping.conversions import changed, one_to_one, returns, walked
from segue.databases.postgresql.reshaping.tables import Column, Table, has_triggers, read, sequences, unfit
from segue.databases.postgresql.reshaping.ways import Feed, Field, Fit, Group, Landing, Log, Way
from segue.errors import SegueError
from segue.planning.expressions import quoted
from segue.planning.shapefile import InvalidShape
from segue.planning.yamlnodes import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from segue.databases.postgresql.moving.support import Connection
    from segue.model.shapes import Lookup, Part, Shape, Term


@dataclass(slots=True)
class _Fitted:
    """A part with its tables; `keys`: the source's key column, or the constant, of each key column of the target."""

    part: Part
    source: Table
    target: Table
    joins: tuple[tuple[str, str, str], ...]
    keys: dict[str, str]
    constants: dict[str, str]
    values: dict[str, str]


def fit(shape: Shape, source: Connection, target: Connection) -> Fit:
    """Return what a shape comes to on its databases. Raises InvalidShape with all that does not fit."""
    return _Fitter(shape, source, target).fit()


class _Fitter:
    def __init__(self, shape: Shape, source: Connection, target: Connection) -> None:
        self._shape = shape
        self._a, self._b = source, target
        self._problems: list[Problem] = []
        self._warnings: list[str] = []

    def fit(self) -> Fit:
        parts = [found for part in self._shape.parts if (found := self._part(part)) is not None]
        self._done()
        self._homes(parts)
        self._merges(parts)
        self._done()
        sources = tuple(dict.fromkeys(one.source.name for one in parts))
        targets = tuple(dict.fromkeys(one.target.name for one in parts))
        numbers = count()
        grouped = [[one for one in parts if one.source.name == name] for name in sources]
        there = Way(
            tuple(
                self._log(n, next(p.source for p in parts if p.source.name == name)) for n, name in enumerate(sources)
            ),
            tuple(self._group_there(n, group, numbers) for n, group in enumerate(grouped)),
        )
        back = None
        if self._shape.way_back:
            logs = tuple(
                self._log(n, next(p.target for p in parts if p.target.name == name)) for n, name in enumerate(targets)
            )
            back = Way(logs, tuple(self._group_back(n, group, targets, numbers) for n, group in enumerate(grouped)))
        self._done()
        return Fit(sources, targets, there, back, self._filters(grouped), self._sequences(parts), tuple(self._warnings))

    # -- one part

    def _part(self, part: Part) -> _Fitted | None:
        source = self._table(self._a, part.source, "source")
        target = self._table(self._b, part.target, "target")
        if source is None or target is None:
            return None
        before = len(self._problems)
        joins = tuple(join for join in (self._join(one) for one in part.lookups) if join is not None)
        for name, term in part.columns.items():
            column = target.columns.get(name)
            if column is None or column.generated:
                what = "generated" if column else "not there"
                self._at(term, f'"{name}" of {target.name} is {what}; its columns are {", ".join(target.columns)}')
        values = {
            name: part.columns[name].text if name in part.columns else f"s.{quoted(name)}"
            for name, column in target.columns.items()
            if name in part.columns or (not column.generated and name in source.columns)
        }
        for name, column in target.columns.items():
            if name not in values and column.needed and not column.generated:
                self._at(part.target, f'nothing gives "{name}" of {target.name} a value, and it refuses NULL')
        keys, constants = self._keys(part, source, target, values)
        if part.where is not None:
            self._check_where(part.where, source)
        if len(self._problems) > before:
            return None
        found = _Fitted(part, source, target, joins, keys, constants, values)
        for name, text in values.items():
            place = part.columns.get(name, part.target)
            self._check(self._a, place, text, target.columns[name], source.name, "s", joins, f'"{name}"')
        self._unspoken(part, source, target, values)
        self._forewarn(found)
        return found

    def _unspoken(self, part: Part, source: Table, target: Table, values: dict[str, str]) -> None:
        """Refuse to change values because of a type alone: who wants that says so."""
        for name, text in values.items():
            try:
                origin = terms.plain_column(text) if terms.is_bare(text) else None
            except SegueError:
                continue
            column, into = source.columns.get(origin[1]) if origin and origin[0] == "s" else None, target.columns[name]
            why = changed((column.base, column.type), (into.base, into.type)) if column else None
            if column is not None and why is not None:
                self._at(
                    part.columns.get(name, part.target),
                    f'"{column.name}" of {source.name} is {column.type}, and "{name}" of {target.name} {into.type}: '
                    f"{why}; if that is meant, say it under `columns`, as in s.{quoted(column.name)}::{into.type}",
                )

    def _forewarn(self, one: _Fitted) -> None:
        for table, _, _ in one.joins:
            self._warnings.append(
                f"what is written to {table} during the move is not followed: rows of {one.target.name} keep what was "
                "looked up until their own row is written again, and `segue move verify` finds them"
            )
        if has_triggers(self._b, one.target.name):
            self._warnings.append(
                f"triggers of {one.target.name} do not fire for what is carried over: give what they would have "
                "written an expression"
            )

    def _keys(
        self, part: Part, source: Table, target: Table, values: dict[str, str]
    ) -> tuple[dict[str, str], dict[str, str]]:
        """Find for each key column of the target the source's key column, or the constant, that it comes from."""
        keys: dict[str, str] = {}
        constants: dict[str, str] = {}
        for table, term in ((source, part.source), (target, part.target)):
            if not table.key:
                self._at(term, f"{table.name} has no primary key, or a deferrable one")
        if not source.key or not target.key:
            return {}, {}
        for name in target.key:
            place = part.columns.get(name, part.target)
            text = values.get(name)
            if text is None:
                self._at(place, f'nothing gives the key "{name}" of {target.name} its value')
                continue
            try:
                origin, constant = terms.plain_column(text), terms.is_constant(text)
            except SegueError as error:
                self._at(place, error.message)
                continue
            column = source.columns.get(origin[1]) if origin and origin[0] == "s" else None
            if constant:
                constants[name] = text
            elif column is None or column.name not in source.key:
                self._at(
                    place,
                    f'the key "{name}" of {target.name} must be a column of the key of {source.name} '
                    f"({', '.join(source.key)}), or a constant, so that each row knows where it came from",
                )
            elif not _one_to_one(column, target.columns[name]):
                self._at(
                    place,
                    f'two keys could become one: "{column.name}" is {column.type}, '
                    f'and "{name}" of {target.name} {target.columns[name].type}',
                )
            else:
                keys[name] = column.name
        if missing := [f'"{name}"' for name in source.key if name not in keys.values()]:
            self._at(
                part.target,
                f"the key of {target.name} has no place for {', '.join(missing)} of {source.name}: "
                "several rows would become one",
            )
        return keys, constants

    def _join(self, lookup: Lookup) -> tuple[str, str, str] | None:
        try:
            table = qualified(self._a, lookup.table.text)
            found = terms.equated(lookup.on.text, lookup.alias)
        except (SegueError, psycopg.Error) as error:
            self._at(lookup.table, str(error))
            return None
        keys = [set(row[0]) for row in self._a.execute(KEYS.encode(), {"table": table})]
        if not any(key <= found for key in keys):
            self._at(
                lookup.on,
                f"the lookup could find several rows: ({', '.join(sorted(found))}) is no key of {table}",
            )
            return None
        return table, lookup.alias, lookup.on.text

    def _table(self, connection: Connection, term: Term, side: str) -> Table | None:
        try:
            name = qualified(connection, term.text)
        except (SegueError, psycopg.Error):
            self._at(term, f'there is no table "{term.text}" on the {side}')
            return None
        return read(connection, name)

    # -- what the parts have in common

    def _homes(self, parts: Sequence[_Fitted]) -> None:
        """Find columns of a source that go nowhere although nobody said so, and those dropped that are not there."""
        for name in dict.fromkeys(one.source.name for one in parts):
            group = [one for one in parts if one.source.name == name]
            source = group[0].source
            used: set[str] = set()
            for one in group:
                texts = [*one.values.values(), *(on for _, _, on in one.joins)]
                used |= {
                    ref[-1] for text in texts for ref in terms.columns_used(text) if ref[0] == "s" or len(ref) == 1
                }
                for term in one.part.drop:
                    used.add(term.text)
                    if term.text not in source.columns:
                        self._at(term, f'{name} has no column "{term.text}" to be dropped')
            if "*" in used or "s" in used:
                continue
            for column in source.columns.values():
                if column.name not in used and not column.generated:
                    self._at(
                        group[0].part.source,
                        f'"{column.name}" of {name} has no home: name a column for it, or list it under `drop`',
                    )

    def _merges(self, parts: Sequence[_Fitted]) -> None:
        """Refuse several sources of one target whose rows could not be told apart."""
        for name in dict.fromkeys(one.target.name for one in parts):
            group = [one for one in parts if one.target.name == name]
            for one in group[1:]:
                if not all(
                    any(one.constants[c] != other.constants.get(c) for c in one.constants)
                    for other in group
                    if other is not one
                ):
                    self._at(
                        one.part.source,
                        f"{name} has several sources: a key column of it must be another constant for each",
                    )

    def _check_where(self, term: Term, source: Table) -> None:
        found = relations(self._a, [source.name])
        if len(found) > 1:
            self._at(term, f"{source.name} has partitions or heirs: a filter is not supported there")
            return
        try:
            terms.columns_used(term.text)
        except SegueError as error:
            self._at(term, error.message)
            return
        # What may be the condition of an index is immutable, and of one row alone. The fence asks it of each row.
        try:
            with self._a.transaction(force_rollback=True):
                self._a.execute(sql.SQL("create temporary table s (like {})").format(sql.SQL(source.name)))
                self._a.execute("set local search_path = pg_catalog")
                self._a.execute(sql.SQL("create index on pg_temp.s ((1)) where ({})").format(sql.SQL(term.text)))
        except psycopg.Error as error:
            said = str(error.diag.message_primary).replace("index predicate", "`where`")
            self._at(term, f"{said}; it may use the row's own columns alone, and own functions by their full names")
            return
        if (why := terms.wrong(term.text)) is not None:
            self._at(term, why)

    def _check(
        self,
        connection: Connection,
        place: Term,
        text: str,
        column: Column,
        table: str,
        alias: str,
        joins: Sequence[tuple[str, str, str]],
        what: str,
    ) -> None:
        """Have the server look at an expression."""
        try:
            why = terms.wrong(text)
            if why is None:
                why = unfit(connection, terms.functions_used(text))
            if why is None:
                lookups = sql.SQL("").join(
                    sql.SQL(" left join {} as {} on ({})").format(sql.SQL(t), sql.Identifier(a), sql.SQL(on))
                    for t, a, on in joins
                )
                connection.execute(
                    sql.SQL("select ({})::{} from {} as {}{} limit 0").format(
                        sql.SQL(text), sql.SQL(column.cast), sql.SQL(table), sql.Identifier(alias), lookups
                    )
                )
        except SegueError as error:
            why = error.message
        except psycopg.Error as error:
            why = str(error.diag.message_primary)
        if why is not None:
            self._at(place, f"{what}: {why}")

    # -- directions

    def _log(self, number: int, table: Table) -> Log:
        return Log(number, table.name, tuple((name, table.columns[name].type) for name in table.key))

    def _group_there(self, number: int, group: Sequence[_Fitted], numbers: Iterator[int]) -> Group:
        source = group[0].source
        feed = Feed(number, tuple(f"l.k{n}" for n, _ in enumerate(source.key, 1)), "true")
        return Group(
            number,
            tuple(source.columns[name].type for name in source.key),
            tuple(f"s.{quoted(name)}" for name in source.key),
            None,
            (feed,),
            tuple(self._landing_there(next(numbers), one) for one in group),
        )

    def _landing_there(self, number: int, one: _Fitted) -> Landing:
        source, target = one.source, one.target
        place = {name: n for n, name in enumerate(source.key, 1)}

        def key(name: str, row: str) -> str:
            return one.constants.get(name, row)

        return Landing(
            number=number,
            origin=source.name,
            alias="s",
            into=target.name,
            match=tuple(f"s.{quoted(name)} = k.k{n}" for name, n in place.items()),
            present=f"s.{quoted(source.key[0])} is not null",
            joins=one.joins,
            where=one.part.where.text if one.part.where else None,
            keys=tuple(
                _field(target.columns[name], key(name, f"k.k{place[one.keys[name]]}" if name in one.keys else ""))
                for name in target.key
            ),
            own_keys=tuple(
                _field(target.columns[name], key(name, f"s.{quoted(one.keys.get(name, ''))}")).words
                for name in target.key
            ),
            values=tuple(
                _field(target.columns[name], text) for name, text in one.values.items() if name not in target.key
            ),
            kept=tuple(
                name for name, column in target.columns.items() if name not in one.values and not column.generated
            ),
            walks={
                name: f"s.{quoted(origin)}" if walked(source.columns[origin].base, target.columns[name].base) else None
                for name, origin in one.keys.items()
            },
            guard=" and ".join(f"s.{quoted(name)} = ({text})" for name, text in one.constants.items()) or None,
        )

    def _group_back(
        self, number: int, group: Sequence[_Fitted], targets: Sequence[str], numbers: Iterator[int]
    ) -> Group:
        source = group[0].source
        first = group[0]
        wheres = {one.part.where.text if one.part.where else None for one in group}
        if len(wheres) > 1:
            self._at(
                group[-1].part.target,
                f"rows of {source.name} go to several tables by different filters, and nothing comes back from there: "
                "say `way_back: false`",
            )
        feeds = []
        for one in group:
            places = {name: n for n, name in enumerate(one.target.key, 1)}
            by_source = {origin: f"l.k{places[name]}" for name, origin in one.keys.items()}
            only = self._ours(one, {name: f"l.k{n}" for name, n in places.items()})
            words = tuple(f"{by_source[name]}::{source.columns[name].cast}" for name in source.key)
            feeds.append(Feed(targets.index(one.target.name), words, only or "true"))
        carried: set[str] = set(source.key)
        landings = []
        for one in group:
            values = {name: words for name, words in self._returning(one).items() if name not in carried}
            carried |= set(values)
            landings.append(self._landing_back(next(numbers), one, values, leads=one is first))
        leading = set(source.key) | {field.name for field in landings[0].values}
        lost = []
        for name, column in source.columns.items():
            if column.generated:
                continue
            if column.needed and name not in leading:
                self._at(
                    first.part.source,
                    f'the way back has no value for "{name}" of {source.name}, which refuses NULL: give it under '
                    "`reverse`, or say `way_back: false`",
                )
            elif name not in carried:
                lost.append(name)
        if lost:
            self._warnings.append(
                f"the way back does not carry {', '.join(lost)} of {source.name}: rows that are made over there get "
                "its default here, the others keep what they have"
            )
        return Group(
            number,
            tuple(source.columns[name].type for name in source.key),
            landings[0].own_keys,
            self._ours(first, {name: f"t.{quoted(name)}" for name in first.target.key}) or None,
            tuple(feeds),
            tuple(landings),
        )

    def _ours(self, one: _Fitted, value: dict[str, str]) -> str:
        """Return on what condition a key of the target, whose columns are `value`, is one of this part's rows."""
        found = [f"{value[name]} = ({text})" for name, text in one.constants.items()]
        for name, origin in one.keys.items():
            condition = returns(value[name], one.source.columns[origin].base, one.target.columns[name].base)
            found += [condition] if condition else []
        return " and ".join(found)

    def _returning(self, one: _Fitted) -> dict[str, str]:
        """Return the columns of the source that a part brings back, each with its words over the target's row."""
        source, target = one.source, one.target
        found = {}
        for name, column in source.columns.items():
            if column.generated or name in source.key:
                continue
            if name in one.part.reverse:
                found[name] = one.part.reverse[name].text
                continue
            for there, text in one.values.items():
                if terms.is_bare(text) and terms.plain_column(text) == ("s", name):
                    found[name] = f"t.{quoted(there)}"
                    back = target.columns[there]
                    if why := changed((back.base, back.type), (column.base, column.type)):
                        self._warnings.append(
                            f'on the way back of "{there}" of {target.name} to "{name}" of {source.name}, which is '
                            f"{column.type}, {why}"
                        )
                    break
        for name, term in one.part.reverse.items():
            if name not in source.columns or source.columns[name].generated or name in source.key:
                self._at(term, f'"{name}" of {source.name} is not there, generated, or of its key')
        for name, text in found.items():
            place = one.part.reverse.get(name, one.part.target)
            self._check(self._b, place, text, source.columns[name], target.name, "t", (), f'the way back of "{name}"')
        return found

    def _landing_back(self, number: int, one: _Fitted, values: dict[str, str], *, leads: bool) -> Landing:
        source, target = one.source, one.target
        place = {name: n for n, name in enumerate(source.key, 1)}
        match = [
            f"t.{quoted(name)} = k.k{place[origin]}::{target.columns[name].cast}" for name, origin in one.keys.items()
        ]
        match += [f"t.{quoted(name)} = ({text})" for name, text in one.constants.items()]
        there = {origin: name for name, origin in one.keys.items()}
        return Landing(
            number=number,
            origin=target.name,
            alias="t",
            into=source.name,
            match=tuple(match),
            present=f"t.{quoted(target.key[0])} is not null",
            joins=(),
            where=None,
            keys=tuple(_field(source.columns[name], f"k.k{place[name]}") for name in source.key),
            own_keys=tuple(_field(source.columns[name], f"t.{quoted(there[name])}").words for name in source.key),
            values=tuple(_field(source.columns[name], text) for name, text in values.items()),
            kept=tuple(
                name
                for name, column in source.columns.items()
                if name not in values and name not in source.key and not column.generated
            ),
            walks={
                name: f"t.{quoted(there[name])}"
                if walked(target.columns[there[name]].base, source.columns[name].base)
                else None
                for name in source.key
            },
            guard=one.part.where.text if one.part.where else None,
            leads=leads,
        )

    # -- the rest

    def _filters(self, grouped: Sequence[Sequence[_Fitted]]) -> dict[str, str]:
        """Return the rows that leave a table, where others stay."""
        found = {}
        for group in grouped:
            wheres = [one.part.where for one in group]
            if all(wheres):
                found[group[0].source.name] = " or ".join(f"({where.text})" for where in wheres if where)
        return found

    def _sequences(self, parts: Sequence[_Fitted]) -> dict[str, str]:
        found: dict[str, str] = {}
        for one in parts:
            mine, theirs = sequences(self._a, one.source.name), sequences(self._b, one.target.name)
            for name, text in one.values.items():
                origin = terms.plain_column(text)
                if name in theirs and origin and origin[0] == "s" and origin[1] in mine:
                    found.setdefault(theirs[name], mine[origin[1]])
            for name in theirs.keys() - {n for n, s in theirs.items() if s in found}:
                self._warnings.append(
                    f'the sequence {theirs[name]} of "{name}" goes on after none of the source: see that it begins '
                    "where it should"
                )
        return found

    def _at(self, term: Term, message: str) -> None:
        self._problems.append(Problem(term.line, term.column, message))

    def _done(self) -> None:
        if self._problems:
            raise InvalidShape(self._shape.file, self._problems)


def _field(column: Column, words: str) -> Field:
    return Field(column.name, column.type, f"({words})::{column.cast}", column.plain, column.below)


def _one_to_one(source: Column, target: Column) -> bool:
    return source.plain and target.plain and one_to_one(source.base, target.base, target.type)
