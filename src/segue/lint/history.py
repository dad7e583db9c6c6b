"""What happened before a statement: in its file, and in the files before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from segue.model import changes as to
from segue.model.values import replace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from segue.model.changes import Change, Changed, Column, Constraint
    from segue.model.impact import Lock


#: Milliseconds by unit.
_UNITS = {"": 1.0, "us": 0.001, "ms": 1.0, "s": 1000.0, "min": 60_000.0, "h": 3_600_000.0, "d": 86_400_000.0}


def milliseconds(value: str | None) -> float:
    """Return what a setting means, 0 for no limit or none that can be read."""
    words = (value or "").strip().lower()
    number = words.rstrip("abcdefghijklmnopqrstuvwxyz ")
    try:
        return float(number) * _UNITS.get(words[len(number) :].strip(), 0)
    except ValueError:
        return 0.0


def plain(name: str) -> str:
    """Return a table's name by which it is known here: `public.orders` and `orders` count as one."""
    return name.removeprefix("public.")


def is_utc(zone: str | None) -> bool:
    """Return whether a time zone is known to be UTC."""
    return (zone or "").lower() in ("utc", "etc/utc", "gmt", "zulu", "universal")


class Table:
    """A table as far as the texts tell."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.columns: dict[str, Column] = {}
        self.constraints: list[Constraint] = []
        self.whole = False  # the text that created it was seen, so that a column that is not here does not exist
        self.partitioned = False
        self.partition_of = ""

    def constraint(self, name: str) -> Constraint | None:
        """Return a constraint by its name."""
        return next((item for item in self.constraints if item.name == name), None)

    def proven(self, column: str) -> bool:
        """Return whether the column's own NOT NULL, or a valid constraint, proves that it holds no NULL."""
        known = self.columns.get(column)
        if known is not None and (known.not_null or known.serial or known.identity):
            return True
        return any(
            not item.not_valid
            and item.enforced
            and (item.proves == column or (item.kind in ("not null", "primary key") and column in item.columns))
            for item in self.constraints
        )


def _named(there: list[Constraint], added: Iterable[Constraint]) -> list[Constraint]:
    """Return constraints under the names that they get, those of the server for those without."""
    taken = {item.name for item in there}
    found = []
    for item in added:
        if not item.name:
            number = 0
            name = item.default_name
            while name in taken:
                number += 1
                name = f"{item.default_name}{number}"
            item = replace(item, name=name)  # noqa: PLW2901
        taken.add(item.name)
        found.append(item)
    return found


class History:
    """What the statements so far have left: tables, indexes, settings, the open transaction."""

    def __init__(self) -> None:
        self.tables: dict[str, Table] = {}
        self.indexes: dict[str, to.CreateIndex] = {}
        self.domains: dict[str, to.CreateDomain] = {}
        self.created: set[str] = set()  # by this file
        self.settings: dict[str, str] = {}
        self.defaults: dict[str, str] = {}  # what sessions begin with, where that is known
        self.local: dict[str, str] = {}  # until the transaction ends
        self.in_transaction = False
        #: The changes of the open transaction, or of the file where none is open.
        self.since_begin: list[Change] = []
        #: All changes of this file before the statement.
        self.before: list[Change] = []
        #: The strongest lock by table that the open transaction holds already.
        self.held: dict[str, Lock] = {}
        #: What rules have said of this file and need not say again.
        self.told: set[str] = set()

    def new(self, table: str) -> bool:
        """Return whether this file created the table."""
        return plain(table) in self.created

    def table(self, name: str) -> Table:
        """Return what is known of a table; nothing, if the texts have not said it."""
        return self.tables.get(plain(name)) or Table(plain(name))

    def domain(self, name: str) -> to.CreateDomain | None:
        """Return a domain as far as the texts tell."""
        return self.domains.get(plain(name))

    def setting(self, name: str) -> str | None:
        """Return the session's value of a setting, None where the file has not set it and its default is not known."""
        return self.local.get(name, self.settings.get(name, self.defaults.get(name)))

    def next_file(self, *, in_transaction: bool) -> None:
        """Begin another file: its session is a new one, and the tables are in use by then."""
        self.created.clear()
        self.settings.clear()
        self._end()
        self.before.clear()
        self.told.clear()
        self.in_transaction = in_transaction

    def take(self, statement: Changed) -> None:
        """Take in a statement."""
        for change in statement.changes:
            self.before.append(change)
            self.since_begin.append(change)
            if isinstance(change, to.Transaction):
                self._transaction(change.verb)
            elif isinstance(change, to.SetSetting):
                self._set(change)
            else:
                self._schema(change)

    def hold(self, table: str, lock: Lock) -> None:
        """Remember a lock until the transaction ends."""
        name = plain(table)
        if self.in_transaction and lock.rank > (self.held[name].rank if name in self.held else 0):
            self.held[name] = lock

    def _end(self) -> None:
        self.local.clear()
        self.since_begin.clear()
        self.held.clear()

    def _transaction(self, verb: str) -> None:
        if verb == "begin":
            self._end()
            self.in_transaction = True
        elif verb in ("commit", "rollback", "prepare"):
            if verb == "rollback":
                for change in self.since_begin:
                    if isinstance(change, to.CreateTable):
                        self.created.discard(plain(change.table))
                        self.tables.pop(plain(change.table), None)
            self._end()
            self.in_transaction = False

    def _set(self, change: to.SetSetting) -> None:
        name = change.name.lower()
        scope = self.local if change.local else self.settings
        if change.value is not None:
            scope[name] = change.value
        elif name:
            # RESET ends what SET LOCAL said too.
            self.settings.pop(name, None)
            self.local.pop(name, None)
        else:  # RESET ALL
            self.settings.clear()
            self.local.clear()

    def _known(self, name: str) -> Table:
        return self.tables.setdefault(plain(name), Table(plain(name)))

    def _table(self, change: to.CreateTable) -> None:
        name = plain(change.table)
        if change.if_not_exists and name in self.tables and name not in self.created:
            return
        self.created.add(name)
        table = self.tables[name] = Table(name)
        table.columns = {column.name: column for column in change.columns}
        table.constraints = _named([], change.constraints)
        table.whole = not change.filled
        table.partitioned, table.partition_of = change.partitioned, change.partition_of

    def _schema(self, change: Change) -> None:
        if isinstance(change, to.CreateTable):
            self._table(change)
        elif isinstance(change, to.AddColumn) and change.if_not_exists:
            self._known(change.table).columns.setdefault(change.column.name, change.column)
        elif isinstance(change, to.AddColumn | to.AlterType):
            self._known(change.table).columns[change.column.name] = change.column
        elif isinstance(change, to.DropColumn):
            table = self._known(change.table)
            table.columns.pop(change.column, None)
            # The server drops with a column whatever it is part of.
            table.constraints = [item for item in table.constraints if change.column not in item.columns]
        elif isinstance(change, to.SetNotNull | to.DropNotNull):
            self._null(change)
        elif isinstance(change, to.AddConstraint):
            table = self._known(change.table)
            table.constraints += _named(table.constraints, [change.constraint])
        elif isinstance(change, to.ValidateConstraint | to.DropConstraint):
            self._constraint(change)
        elif isinstance(change, to.CreateDomain | to.AlterDomain):
            self._domain(change)
        elif isinstance(change, to.CreateIndex):
            if not (change.if_not_exists and plain(change.name) in self.indexes):
                self.indexes[plain(change.name)] = change
        elif isinstance(change, to.AttachPartition) and not change.index:
            self._known(change.partition).partition_of = change.table
        else:
            self._names(change)

    def _domain(self, change: to.CreateDomain | to.AlterDomain) -> None:
        known = self.domain(change.name)
        if isinstance(change, to.CreateDomain):
            self.domains[plain(change.name)] = change
        elif known is not None and change.action in ("add constraint", "set not null"):
            self.domains[plain(change.name)] = replace(known, constrained=True)

    def _constraint(self, change: to.ValidateConstraint | to.DropConstraint) -> None:
        table = self._known(change.table)
        valid = isinstance(change, to.ValidateConstraint)
        table.constraints = [
            replace(item, not_valid=False) if item.name == change.name else item
            for item in table.constraints
            if valid or item.name != change.name
        ]

    def _null(self, change: to.SetNotNull | to.DropNotNull) -> None:
        table, name = self._known(change.table), change.column
        kept = [item for item in table.constraints if item.kind != "not null" or item.columns != (name,)]
        holds = isinstance(change, to.SetNotNull)
        if name in table.columns:
            table.columns[name] = replace(table.columns[name], not_null=holds)
        elif holds:
            kept.append(to.Constraint(kind="not null", columns=(name,)))
        table.constraints = kept

    def _names(self, change: Change) -> None:
        if isinstance(change, to.DropObject):
            self.tables.pop(plain(change.name), None) if change.kind == "table" else None
            self.indexes.pop(plain(change.name), None) if change.kind == "index" else None
            self.domains.pop(plain(change.name), None) if change.kind == "domain" else None
        elif isinstance(change, to.RenameObject) and change.kind == "table":
            old, new = plain(change.table), plain(change.new)
            if old in self.tables:
                self.tables[new] = self.tables.pop(old)
                self.tables[new].name = new
            if old in self.created:
                self.created.add(new)
        elif isinstance(change, to.RenameObject) and change.kind == "column":
            columns = self._known(change.table).columns
            if change.name in columns:
                columns[change.new] = columns.pop(change.name)
