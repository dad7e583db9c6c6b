"""The definition of a database as pg_dump writes it: its entries, what each needs, and those that a move takes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import conninfo

from segue.databases.postgresql.moving.support import where
from segue.embedded import binaries
from segue.errors import ConfigurationError, StepFailed
from segue.model.urls import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from segue.databases.postgresql.moving.support import Connection, Pair

#: Nothing of Segue's own goes along, and nothing that belongs to a server rather than to a database.
LEFT_OUT = ("--no-publications", "--no-subscriptions", "--no-tablespaces", "--no-table-access-method")
_OWN = re.compile(r"segue(_.*)?")
_CLOSED = """
select pg_catalog.format('%I.%I', n.nspname, c.relname) from pg_catalog.pg_class as c
join pg_catalog.pg_namespace as n on n.oid = c.relnamespace
where c.relkind in ('r', 'p') and n.nspname !~ '^pg_' and n.nspname <> 'information_schema'
    and not (pg_catalog.has_schema_privilege(n.oid, 'usage') and pg_catalog.has_table_privilege(c.oid, 'select'))
"""
#: What hangs on a table and goes where it goes.
_HANGING = {
    *("DEFAULT", "SEQUENCE", "SEQUENCE OWNED BY", "TABLE ATTACH", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT"),
    *("INDEX", "INDEX ATTACH", "STATISTICS", "TRIGGER", "RULE", "POLICY", "ROW SECURITY"),
}
#: What is said of another entry.
_TOLD = {"COMMENT", "ACL", "SECURITY LABEL"}

_HEAD = re.compile(
    r"^--\n-- TOC entry (?P<number>\d+) \(class (?P<class>\d+) OID (?P<oid>\d+)\)\n"
    r"(?:-- Dependencies:(?P<needs>[ \d]*)\n)?"
    r"-- Name: (?P<name>.*); Type: (?P<kind>[^;\n]*); Schema: (?P<schema>.*); Owner: (?P<owner>[^\n]*)\n"
    r"(?:-- Data Pos: .*\n)?--\n",
    re.MULTILINE,
)
_END = re.compile(r"\n-- Completed on [^\n]*\n\s*--\n-- PostgreSQL database dump complete\n--\n.*\Z", re.DOTALL)
_OWNER = re.compile(r"\n\nALTER [^\n]* OWNER TO [^\n]*;\s*\Z")


@dataclass(frozen=True, slots=True)
class Entry:
    """One object of a database, or what is said of one: its SQL, and the numbers of the entries it needs.

    `catalog` and `oid`: the object's in the source, 0 where it has none. `post`: made after the rows are there.
    """

    number: int
    catalog: int
    oid: int
    needs: tuple[int, ...]
    name: str
    kind: str
    schema: str
    sql: str
    #: Gives the object to its owner, whom the target may not have.
    owner: str
    post: bool

    @property
    def words(self) -> str:
        """Name it for people."""
        schema = "" if self.schema == "-" else f" of {self.schema}"
        return f"{self.kind.lower()} {self.name}{schema}"


def read(pair: Pair, source: Connection, seconds: float) -> list[Entry]:
    """Read the definition of the source's database, in an order in which it can be made.

    Waits at most so many seconds for its tables' locks, which readers have. Raises ConfigurationError where there is
    no pg_dump as new as the source's server, StepFailed where it fails.
    """
    folder = programs(source)
    place = where(pair, pair.source)
    with tempfile.TemporaryDirectory(prefix="segue-move-") as scratch:
        kept = Path(scratch, "schema")
        dump: list[str | Path] = [
            "--format=custom",
            "--schema-only",
            f"--lock-wait-timeout={round(seconds * 1000)}",
            f"--file={kept}",
        ]
        given = {**conninfo.conninfo_to_dict(pair.source.url), "application_name": f"segue move {pair.id}"}
        # By a variable: the arguments of a process can be read by others.
        secret = given.pop("password", None)
        environment = dict(os.environ) if secret is None else {**os.environ, "PGPASSWORD": str(secret)}
        dump += [f"--exclude-table={name}" for name in closed(source)]
        run(
            [folder / "pg_dump", *dump, *LEFT_OUT, f"--dbname={conninfo.make_conninfo('', **given)}"],
            environment,
            place,
        )
        restore: list[str | Path] = [folder / "pg_restore", "--verbose", "--file=-", kept]
        restore += ["--no-tablespaces", "--no-table-access-method"]
        return [
            entry
            for section in ("pre-data", "post-data")
            for entry in parse(run([*restore, f"--section={section}"], environment, place), post=section == "post-data")
        ]


def closed(source: Connection) -> list[str]:
    """Return the tables that the role may not read: it may not lock them either, and pg_dump locks all."""
    return [str(row[0]) for row in source.execute(_CLOSED).fetchall()]


def programs(source: Connection) -> Path:
    """Return the folder of a pg_dump that knows the source's server, and can speak to it as we do."""
    major = source.info.server_version // 10000
    found = shutil.which("pg_dump")
    candidates = [Path(found).parent] if found else []
    with suppress(ConfigurationError):
        # The embedded one is the newest, but it is built without TLS.
        candidates.insert(len(candidates) if source.pgconn.ssl_in_use else 0, binaries())
    for folder in candidates:
        if _version(folder / "pg_dump") >= major:
            return folder
    raise ConfigurationError(
        f"there is no pg_dump here that knows PostgreSQL {major}",
        hint="install postgresql-client of that version, or make the tables on the target by hand",
    )


def _version(program: Path) -> int:
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    number = re.search(r"(\d+)", said)
    return int(number[1]) if number else 0


def run(command: Sequence[str | Path], environment: Mapping[str, str], place: str) -> str:
    """Run one of PostgreSQL's programs on a place and return what it printed. Raises StepFailed where it fails."""
    done = subprocess.run(
        command,
        env={**environment, "LC_ALL": "C"},
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if re.match(r"\w+: (error|detail|hint):", line)]
        raise StepFailed(
            f"{Path(command[0]).name} could not read the definition of {place}",
            details=[redact(line) for line in errors[-5:]] or [redact(done.stderr[-500:])],
        )
    return done.stdout


def parse(text: str, *, post: bool) -> Iterator[Entry]:
    """Cut what pg_restore prints, with its remarks, into entries."""
    heads = list(_HEAD.finditer(text))
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        # The words behind the last entry end the dump.
        body = _END.sub("\n", text[head.end() : end])
        owner = _OWNER.search(body)
        yield Entry(
            number=int(head["number"]),
            catalog=int(head["class"]),
            oid=int(head["oid"]),
            needs=tuple(dict.fromkeys(map(int, (head["needs"] or "").split()))),
            name=head["name"],
            kind=head["kind"],
            schema=head["schema"],
            sql=(body[: owner.start()] if owner else body).strip(),
            owner=owner[0].strip() if owner else "",
            post=post,
        )


def chosen(entries: Sequence[Entry], tables: Sequence[int] | None) -> tuple[list[Entry], list[Entry]]:
    """Return what is to be made of a definition, and what hangs on the tables but needs something that stays.

    `tables`: the oids of those that move, with what hangs on them and what that needs; None: everything.
    """
    by_number = {entry.number: entry for entry in entries}
    able: dict[int, bool] = {}

    def can(entry: Entry) -> bool:
        if entry.number not in able:
            able[entry.number] = True  # Whatever needs itself can be made, as pg_dump has found an order.
            own = _OWN.fullmatch(entry.schema) or (entry.kind == "SCHEMA" and _OWN.fullmatch(entry.name))
            stays = tables is not None and entry.kind == "TABLE" and entry.oid not in tables
            able[entry.number] = not own and not stays and all(map(can, _needs(entry, by_number)))
        return able[entry.number]

    taken: set[int] = set()

    def take(entry: Entry) -> None:
        if entry.number not in taken:
            taken.add(entry.number)
            for other in _needs(entry, by_number):
                take(other)

    left = []
    if tables is None:
        taken = {entry.number for entry in entries if can(entry)}
    else:
        roots = [entry for entry in entries if entry.kind == "TABLE" and entry.oid in tables]
        moved = {entry.number for entry in roots}
        hanging = [e for e in entries if e.kind in _HANGING and moved.intersection(_holders(e, by_number))]
        for entry in (*roots, *hanging):
            if can(entry):
                take(entry)
            else:
                left.append(entry)
        for entry in entries:
            if entry.kind in _TOLD and entry.needs and taken.issuperset(entry.needs):
                taken.add(entry.number)
    return [entry for entry in entries if entry.number in taken], left


def _needs(entry: Entry, by_number: Mapping[int, Entry]) -> list[Entry]:
    found = [by_number[number] for number in entry.needs if number in by_number]
    if entry.kind == "SEQUENCE" and entry.sql.startswith("CREATE"):
        # The table that owns it may stay; another one draws from it.
        found = [other for other in found if other.kind != "TABLE"]
    return found


def _holders(entry: Entry, by_number: Mapping[int, Entry]) -> set[int]:
    """Return the tables that an entry hangs on, among others; who owns a sequence is one step further."""
    held = {number for number in entry.needs if number in by_number}
    if entry.kind == "SEQUENCE OWNED BY":
        held |= {other for number in tuple(held) for other in by_number[number].needs}
    return held
