"""Asks an Alembic project for the SQL of its revisions, a call at a time, without a database.

The project's env.py is run as for `alembic upgrade --sql`, or, where it cannot be, each revision by itself. Statements
that a revision sends over its connection are taken down; what wants an answer needs a database, and that is said.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
from typing import Any


class NeedsDatabase(Exception):
    """Raised where something asks the database."""


class Record:
    """What the revisions have sent so far."""

    def __init__(self) -> None:
        self.revisions: list[dict[str, Any]] = []
        self.current: dict[str, Any] | None = None

    def line(self) -> int:
        """Return the line of the current revision from which this is called."""
        path = self.current["path"] if self.current else ""
        frame: Any = sys._getframe(1)
        while frame is not None:
            if os.path.abspath(frame.f_code.co_filename) == path:  # noqa: PTH100
                return int(frame.f_lineno)
            frame = frame.f_back
        return 0

    def sent(self, sql: str) -> None:
        """Take down a statement."""
        if self.current is not None and sql.strip():
            words = sql.rstrip()
            self.current["statements"].append(
                {"line": self.line(), "sql": words if words.endswith(";") else words + ";"}
            )

    def unanalysed(self, line: int, why: str) -> None:
        """Say what is not known."""
        if self.current is not None:
            self.current["unanalysed"].append({"line": line, "why": why})


class Result:
    """The answer to a statement that nobody has answered."""

    def _asked(self, *_: Any) -> Any:
        raise NeedsDatabase("it reads what is in the database")

    __iter__ = __next__ = __getitem__ = __len__ = __bool__ = _asked

    @property
    def rowcount(self) -> int:
        """Return what cannot be known."""
        return int(self._asked())

    def close(self) -> None:
        """Do nothing."""

    def __getattr__(self, name: str) -> Any:
        return self._asked()


class Connection:
    """A connection to nobody: statements are taken down."""

    def __init__(self, record: Record, dialect: Any) -> None:
        self._record, self.dialect = record, dialect
        self.engine, self.name = self, dialect.name

    def execute(self, statement: Any, *parameters: Any, **more: Any) -> Result:
        """Take down a statement, with its parameters written out."""
        from sqlalchemy import text

        if isinstance(statement, str):
            statement = text(statement)
        rows = parameters[0] if parameters else None
        for row in rows if isinstance(rows, (list, tuple)) else [rows]:
            self._record.sent(written(statement, row, self.dialect))
        return Result()

    def scalar(self, *_: Any, **__: Any) -> Any:
        """Refuse an answer."""
        raise NeedsDatabase("it reads what is in the database")

    def execution_options(self, **_: Any) -> Connection:
        """Return itself."""
        return self

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise NeedsDatabase(f"it uses {name} of its connection")


def written(statement: Any, row: Any, dialect: Any) -> str:
    """Return a statement as text."""
    if isinstance(row, dict) and row:
        if hasattr(statement, "bindparams") and type(statement).__name__ == "TextClause":
            statement = statement.bindparams(**row)
        elif hasattr(statement, "values") and type(statement).__name__ in ("Insert", "Update"):
            statement = statement.values(**row)
    try:
        return str(statement.compile(dialect=dialect, compile_kwargs={"literal_binds": True}))
    except Exception:  # a value that has no literal: which one it is does not matter here
        compiled = statement.compile(dialect=dialect, compile_kwargs={"render_postcompile": True})
        words = str(compiled)
        return re.sub(r"%\((\w+)\)s|(?<![:\w]):(\w+)", "NULL", words) if compiled.params else words


def main() -> None:
    """Answer the question."""
    answer, question = sys.argv[1], json.loads(sys.argv[2])
    sys.path.insert(0, os.getcwd())  # noqa: PTH109
    with open(answer, "w", encoding="utf-8") as file:  # noqa: PTH123
        json.dump(asked(question), file)


def asked(question: dict[str, Any]) -> dict[str, Any]:
    """Return the revisions in the order in which they are applied, with the SQL of each call."""
    from alembic.config import Config
    from alembic.ddl.impl import DefaultImpl
    from alembic.runtime.environment import EnvironmentContext
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    record = Record()
    config = Config(question["ini"], output_buffer=io.StringIO())
    try:
        script = ScriptDirectory.from_config(config)
    except CommandError:  # the folder that the file names is beside it, rather than here
        os.chdir(os.path.dirname(question["ini"]))  # noqa: PTH120
        sys.path.insert(0, os.getcwd())  # noqa: PTH109
        script = ScriptDirectory.from_config(config)
    # Whatever env.py does with it, nobody is there.
    config.set_main_option("sqlalchemy.url", "postgresql://nobody@nowhere.invalid/nothing")
    people: dict[int, Connection] = {}

    def bind(self: Any) -> Connection:
        dialect = self.dialect
        dialect.server_version_info = (question["version"], 0)
        return people.setdefault(id(dialect), Connection(record, dialect))

    impl: Any = DefaultImpl
    migrating: Any = MigrationContext
    environment: Any = EnvironmentContext
    impl.bind = property(bind)
    migrating.bind = property(bind)
    impl._exec = executing(record, impl._exec)
    impl.static_output = lambda self, text: record.sent(text)
    configure = environment.configure

    def configured(self: Any, connection: Any = None, url: Any = None, **options: Any) -> None:
        options.update(dialect_name="postgresql", literal_binds=True, dialect_opts={"paramstyle": "named"})
        options.pop("output_buffer", None)
        self.context_opts["as_sql"] = True
        configure(self, **options)

    environment.configure = configured
    why = ""

    def steps(heads: Any, context: Any) -> Any:
        found = upgrades(script)
        for step in found:
            step.migration_fn = recorded(record, step)
        return found

    try:
        options: dict[str, Any] = {"fn": steps, "as_sql": True, "destination_rev": "heads", "dont_mutate": False}
        with EnvironmentContext(config, script, **options):
            script.run_env()
    except (Exception, SystemExit) as error:
        why = f"{type(error).__name__}: {error}"
    if len(record.revisions) < len(upgrades(script)):
        record.revisions = []
        alone(record, script)
    return {"revisions": record.revisions, "note": why}


def executing(record: Record, plain: Any) -> Any:
    """Return what sends a statement, also one whose values have no literal."""

    def execute(self: Any, construct: Any, *more: Any, **named: Any) -> Any:
        from sqlalchemy.exc import CompileError

        try:
            return plain(self, construct, *more, **named)
        except CompileError:
            record.sent(written(construct, None, self.dialect))
            return None

    return execute


def upgrades(script: Any) -> Any:
    """Return the steps from nothing to all heads."""
    return script._upgrade_revs("heads", None)


def alone(record: Record, script: Any) -> None:
    """Run the revisions without the project's env.py."""
    from alembic.operations import Operations
    from alembic.runtime.migration import MigrationContext

    context = MigrationContext.configure(
        dialect_name="postgresql", opts={"as_sql": True, "literal_binds": True, "output_buffer": io.StringIO()}
    )
    with Operations.context(context):
        for step in upgrades(script):
            recorded(record, step)()


def recorded(record: Record, step: Any) -> Any:
    """Return a revision's way forward that ends where it needs a database, and says so."""
    forward, revision = step.migration_fn, step.revision
    path = os.path.abspath(revision.path)  # noqa: PTH100

    def run(*arguments: Any, **more: Any) -> None:
        record.current = {"revision": revision.revision, "path": path, "statements": [], "unanalysed": []}
        record.revisions.append(record.current)
        try:
            forward(*arguments, **more)
        except (Exception, SystemExit) as error:
            line, trace = 0, error.__traceback__
            while trace is not None:
                if os.path.abspath(trace.tb_frame.f_code.co_filename) == path:  # noqa: PTH100
                    line = trace.tb_lineno
                trace = trace.tb_next
            said = str(error).splitlines()[0] if str(error) else ""
            if type(error).__name__ == "NoInspectionAvailable":
                error, said = NeedsDatabase(), "it looks at the schema"
            need = isinstance(error, NeedsDatabase)
            why = (
                f"this needs a database: {said}"
                if need
                else f"this fails without a database: {type(error).__name__}: {said}"
            )
            record.unanalysed(line, f"{why}; what comes after it in this revision is not looked into")
        finally:
            record.current = None

    return run


if __name__ == "__main__":
    main()
