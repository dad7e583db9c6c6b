"""A step that runs a program of the user's: a Python function, a command, or a script for Node."""

from __future__ import annotations

import json
import os
import signal
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from segue import clock
from segue.engine import interpreters, journal, scripts
from segue.engine.control import Halted, MustWait, PauseRequested
from segue.engine.expectation import meets, wanted
from segue.errors import (
    Busy,
    CannotTell,
    ConfigurationError,
    FenceLost,
    LockNotGranted,
    OutcomeUnknown,
    PrivilegeMissing,
    SegueError,
    StepFailed,
    TargetError,
    TargetUnreachable,
)
from segue.model.plans import Expectation, Seconds, StepFields
from segue.model.quantities import duration
from segue.model.scripts import LEADING, Script, path
from segue.planning import scriptfiles
from segue.ports import FORWARD, Access, Database, EffectKey, Observed, StepRun

if TYPE_CHECKING:
    from segue.model.impact import Statement

# How long to try to reach a target again, to write down there that a script has ended well.
RECOVERY_SECONDS = 30.0
# Lines of the output that stand under an error.
SHOWN = 12

#: What a call in another process may report.
_ERRORS: dict[str, type[SegueError]] = {
    kind.code: kind
    for kind in (
        Busy,
        ConfigurationError,
        FenceLost,
        LockNotGranted,
        OutcomeUnknown,
        PrivilegeMissing,
        TargetError,
        TargetUnreachable,
    )
}


class ScriptParams(Script, StepFields):
    """A program of the user's, which changes the target through a session of its own."""

    kind: Literal["script"] = "script"
    type: Literal["schema-change", "data-migration", "validation"] = Field(
        description="What the script does: change the schema, change data, or only look."
    )
    reverse: Script | None = Field(default=None, description="The program that takes the step back.")
    lock_timeout: Seconds = Field(
        default=60.0, description="How long a function in a transaction tries for locks, in short slices."
    )

    @property
    def step_type(self) -> str:
        """Return what kind of change this is, in the word of the record."""
        return self.type

    @property
    def prisma_script(self) -> str | None:
        """Return the text of the script for Node."""
        return self.written if self.prisma is not None else None

    @property
    def custom_script(self) -> str | None:
        """Return the command line, or the text of the Python file with the function's name before it."""
        if self.prisma is not None:
            return None
        return f"# {self.text}\n{self.written}" if self.written else self.text

    @property
    def rollback_command(self) -> str | None:
        """Return what takes the step back, as one line."""
        return self.reverse.text if self.reverse is not None else None


class ScriptStep:
    """See `segue.ports.StepKind`."""

    kind = "script"
    step_type = "data-migration"
    effects = True
    parallel = True
    Params = ScriptParams

    def prepare(self, params: ScriptParams, folder: Path | None) -> ScriptParams:
        """Return the fields with the text of every file that the script names."""
        found: dict[str, Any] = {"contents": scriptfiles.read(params, folder, "")}
        if params.reverse is not None:
            contents = scriptfiles.read(params.reverse, folder, "`reverse`: ")
            found["reverse"] = params.reverse.model_copy(update={"contents": contents})
        return params.model_copy(update=found)

    def statements(self, params: ScriptParams, database: Database) -> list[Statement]:
        """Return nothing: what a program sends is not known beforehand."""
        return []

    def reverse(self, params: ScriptParams, database: Database) -> list[Statement]:
        """Return nothing: what a program sends is not known beforehand."""
        return []

    def irreversible(self, params: ScriptParams) -> str | None:
        """Return why the step cannot be undone."""
        if params.irreversible:
            return params.irreversible
        return None if params.reverse or params.type == "validation" else "the step gives no `reverse`"

    def problems(self, params: ScriptParams, database: Database) -> list[str]:
        """Return what cannot work about the script."""
        found = []
        if params.reverse and params.irreversible:
            found.append("a step has either `reverse` or `irreversible`, not both")
        if self.irreversible(params) and not params.irreversible:
            found.append("say how the step is undone with `reverse`, or why it cannot be with `irreversible`")
        if params.retries and not params.repeatable:
            found.append(
                "`retries`: what a failed script has done cannot be told, so it is not repeated by itself; "
                "write `idempotent: true` or `done_when`"
            )
        for where, script in (("", params), ("`reverse`: ", params.reverse)):
            if script is not None and script.done_when is not None:
                asked = database.statements(script.done_when.query)
                if len(asked) != 1 or asked[0].verb != "SELECT" or asked[0].lock.rank > 1:
                    found.append(f"{where}`done_when`: `query` must be one SELECT that only reads")
        return found

    def check(self, run: StepRun) -> None:
        """Leave it to the preparation of the program, which finds what is missing before anything is begun."""

    def run(self, run: StepRun) -> None:
        """Run the program, unless it has done its work already."""
        self._bring_about(run, run.params, run.key(0))

    def observe(self, run: StepRun) -> Observed:
        """Look what the target's history says of the program."""
        return run.target.observe(run.key(0, FORWARD))

    def undo(self, run: StepRun) -> None:
        """Run the reverse, if the program has done its work, or a part of it that only the reverse can know."""
        params: ScriptParams = run.params
        forward = run.key(0, FORWARD)
        state = run.target.observe(forward)
        if state is Observed.CANNOT_TELL:
            state = _looked(run, params, forward)
            if state is Observed.NOT_DONE and not params.idempotent:
                run.target.programs().forget(forward)
        # One that may be run again after it stopped half-way was perhaps stopped there.
        half_way = params.idempotent and run.target.programs().begun(forward) is not None
        if params.reverse is not None and (state is Observed.DONE or half_way):
            self._bring_about(run, params.reverse, run.key(0))

    def _bring_about(self, run: StepRun, script: Script, key: EffectKey) -> None:
        """Bring the script's work about once, as far as that is in our hands, or find that it is done."""
        state = run.target.observe(key)
        if state is Observed.CANNOT_TELL:
            state = _looked(run, script, key)
        elif state is Observed.NOT_DONE and not script.transactional and not script.idempotent:
            state = _done_before(run, script, key)
        if state is Observed.DONE:
            return
        run.boundary()
        with scripts.private_folder() as folder:
            work = _Work(run, script, key, folder)
            if script.transactional:
                work.call()
            else:
                work.command()


class _Work:
    """One run of one script."""

    def __init__(self, run: StepRun, script: Script, key: EffectKey, folder: Path) -> None:
        self._run = run
        self._script = script
        self._key = key
        self._folder = folder
        self._report = folder / "report.json"
        programs = run.target.programs()
        # What is missing on this machine is found before anything is begun.
        self._program = self._prepared(programs.access(key))
        self._output = scripts.Output(self._program.secrets, self._say)
        self._later: BaseException | None = None
        self._mute = False

    def call(self) -> None:
        """Call a function in one transaction with its record: it is done, or nothing of it is."""
        run = self._run
        code = self._execute("its transaction was rolled back; raise `timeout` and run again")
        journal.point("script-called")
        slices, seconds = self._reported().get("waits", (0, 0.0))
        run.target.waits.slices += slices
        run.target.waits.seconds += seconds
        run.target.programs().end_sessions(self._key)
        done = run.target.observe(self._key) is Observed.DONE
        self._keep(code)
        if not done:
            raise self._failure(code, "nothing of it took effect; correct the cause and run again")

    def command(self) -> None:
        """Run a program that opens its own sessions: begun is recorded before it, done after it."""
        run, script = self._run, self._script
        again = (
            "correct the cause and run again"
            if script.repeatable
            else "what it has done until then cannot be told: look at the target, then run again with `--resolve done` "
            "or `--resolve not-done`"
        )
        run.target.programs().begin(self._key, script.text)
        code = self._execute(f"raise `timeout`; {again}")
        journal.point("script-ran")
        if code != 0:
            self._keep(code)
            raise self._failure(code, again)
        for last in (False, True):
            try:
                programs = run.target.programs()
                programs.end_sessions(self._key)
                if script.done_when is not None and not _holds(run, script.done_when):
                    raise StepFailed(
                        f'the script of step "{self._key.step}" ended well, but its `done_when` does not hold',
                        details=self._last(),
                        hint=again,
                    )
                programs.finish(self._key)
            except TargetUnreachable as error:
                # That it has ended well is known here alone, so it is written down here.
                if last:
                    raise
                run.note(f"{error.message}; trying to write down that the script has ended well")
                run.target.recover(RECOVERY_SECONDS)
            else:
                break
        self._keep(code)

    def _execute(self, hint: str) -> int:
        run = self._run
        deadline = clock.ticks() + run.patience.work
        seconds = run.params.timeout

        def boundary() -> None:
            if clock.ticks() > deadline:
                raise StepFailed(
                    f'the script of step "{self._key.step}" was ended after its timeout of {duration(seconds)}',
                    hint=hint,
                )
            try:
                run.boundary()
            except (PauseRequested, MustWait, Halted) as stop:
                if self._script.repeatable:
                    raise
                # Stopped half-way a person would have to look. Its end is the next safe point.
                if self._later is None:
                    run.note(f"{stop.message}: as soon as the script has ended, which cannot be stopped half-way")
                self._later = stop

        code: int | None = None
        try:
            code = scripts.execute(self._program, boundary=boundary, output=self._output, remove=self._folder)
        except StepFailed as error:
            error.details = error.details or self._last()
            raise
        finally:
            if code is None:
                # Ended before its time, while its statements may run on in the target.
                with suppress(SegueError):
                    run.target.programs().end_sessions(self._key)
                with suppress(SegueError):
                    self._keep(None)
        return code

    def _keep(self, code: int | None) -> None:
        self._run.keep(exit_code=code, output=list(self._output.last), output_lines=self._output.lines)

    def _reported(self) -> dict[str, Any]:
        """Return what a call left of itself, nothing when it was killed before."""
        try:
            return dict(json.loads(self._report.read_text(encoding="utf-8")))
        except (OSError, ValueError):
            return {}

    def _failure(self, code: int, hint: str) -> SegueError:
        """Return why a program failed: in the words of the call's report, or by its exit code."""
        reported = self._reported().get("error")
        if not reported:
            words = f"exit code {code}" + (f" ({_signal(code)})" if code > 128 else "")
            return StepFailed(
                f'the script of step "{self._key.step}" ended with {words}', details=self._last(), hint=hint
            )
        kind = _ERRORS.get(reported["code"], StepFailed)
        message = self._output.masked(reported["message"])
        if kind is StepFailed:
            message = f'the script of step "{self._key.step}" failed: {message}'
        details = [self._output.masked(line) for line in reported["details"]]
        return kind(message, details=[*details, *self._last()], hint=reported["hint"] or hint)

    def _last(self) -> list[str]:
        return [line for line in self._output.last if line.strip()][-SHOWN:]

    def _say(self, stream: str, line: str) -> None:
        if self._mute or not line.strip():
            return
        try:
            self._run.note(line, **({"stream": stream} if stream else {}))
        except TargetUnreachable:
            # How a script ended must not be lost with its words: a store that stays away stops the run by itself.
            self._mute = True

    # -- the program

    def _prepared(self, access: Access) -> scripts.Program:
        script, name = self._script, self._key.step
        here = scriptfiles.lay_out(script, self._folder / "files")
        environment = {
            word: value for word, value in os.environ.items() if word not in LEADING and not word.startswith("SEGUE_")
        }
        environment |= {
            "SEGUE_EXECUTION": self._key.execution,
            "SEGUE_PLAN": self._key.plan,
            "SEGUE_STEP": name,
            "SEGUE_DIRECTION": self._key.direction,
            "SEGUE_FILES": str(here),
            **script.env,
            **access.variables,
        }
        cwd = here if script.cwd is None else here / script.cwd
        if not cwd.is_dir():
            raise StepFailed(
                f'step "{name}": there is no folder "{script.cwd}" on this machine',
                hint="`cwd` is an absolute path on every machine that may run the step, or one among its files",
            )
        if script.python is not None:
            command = [sys.executable, "-P", "-m", "segue.calling"]
            environment |= {"PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}
            environment["SEGUE_CALL"] = json.dumps(self._wanted(access, here, script.python))
        elif script.prisma is not None:
            project = cwd if script.cwd is not None else Path.cwd()
            command = interpreters.node(name, here / path(script.prisma), here, project)
        else:
            command = interpreters.command(name, script.command or [], here, environment.get("PATH"))
        return scripts.Program(command, cwd, environment, access.secrets)

    def _wanted(self, access: Access, here: Path, python: str) -> dict[str, Any]:
        file, _, function = python.rpartition(":")
        patience = self._run.patience
        return {
            "database": self._run.database.name,
            "key": asdict(self._key),
            "holder": access.holder,
            "fence": self._run.target.fence,
            "schema": access.schema,
            "file": str(here / path(file)),
            "function": function,
            "transaction": self._script.transaction,
            "text": self._script.text,
            "locks": patience.locks,
            "work": patience.work,
            "report": str(self._report),
        }


# -- what is known of an effect


def _looked(run: StepRun, script: Script, key: EffectKey) -> Observed:
    """Find out about a script that was begun and whose end nobody has seen."""
    programs = run.target.programs()
    if script.done_when is not None and _holds(run, script.done_when):
        run.note("its `done_when` holds: the script has done its work")
        programs.finish(key)
        return Observed.DONE
    # A person has seen what an earlier run left, not what this one did.
    word = run.resolved() if programs.begun(key) != run.target.fence else None
    if word is not None:
        run.target.resolve(key, word)
        run.note(f"taken as {word.value} on a person's word")
        return word
    if script.idempotent or script.done_when is not None:
        run.note("the script was stopped half-way, or has failed")
        return Observed.NOT_DONE
    raise CannotTell(
        f'whether the script of step "{key.step}" has done its work cannot be told: it was begun, and did not end well',
        details=[script.text],
        hint="look at the target, then run again with `--resolve done` or `--resolve not-done`; a script that may be "
        "repeated says so with `idempotent` or `done_when`",
    )


def _done_before(run: StepRun, script: Script, key: EffectKey) -> Observed:
    """Look whether a script's work is there although the script was never begun."""
    if script.done_when is None or not _holds(run, script.done_when):
        return Observed.NOT_DONE
    word = run.resolved()
    if word is None:
        raise CannotTell(
            f'the `done_when` of step "{key.step}" holds, though its script was never begun: '
            "was its work done by other means, or does the query hold always?",
            details=[" ".join(script.done_when.query.split())[:300]],
            hint="run again with `--resolve done` to pass over the script, or `--resolve not-done` to run it",
        )
    run.note(f"taken as {word.value} on a person's word")
    if word is Observed.DONE:
        run.target.mark(key, {"resolved": word.value})
    return word


def _holds(run: StepRun, expectation: Expectation) -> bool:
    _, rows = run.target.query(expectation.query, run.patience.work, limit=wanted(expectation))
    return meets(expectation, rows).passed


def _signal(code: int) -> str:
    try:
        return signal.Signals(code - 128).name
    except ValueError:
        return "no signal that is known"


STEP: Any = ScriptStep()
