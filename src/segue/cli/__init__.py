"""The command line: parse, call a service, render. One file per noun; `commands.py` finds them.

`segue --help` must stay cheap, so this module imports nothing heavy, and a command's module is imported only when
the command is used. How to add a command is said in `commands.py`, how to print in `output.py`.
"""

from __future__ import annotations

import gc
import os
import sys
from typing import NoReturn


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run one command and leave the process with its exit code; never a traceback for a user's mistake."""
    sys.exit(perform(sys.argv[1:] if arguments is None else arguments))


def perform(arguments: list[str]) -> int:
    """Run one command and return its exit code, with every failure printed as words or as JSON."""
    try:
        from segue.cli import output

        arguments = output.configure(arguments)
        if arguments[:1] == ["lint"] and "_SEGUE_COMPLETE" not in os.environ:
            from segue.cli import _linting, _plain

            asked = _plain.asked(arguments[1:])
            if asked is not None:
                gc.disable()  # the process ends soon, and keeps what it makes until then
                return finish(_linting.lint(asked))
        import logging

        # Libraries' warnings about what they clean up after an error are no words for people.
        logging.getLogger().addHandler(logging.NullHandler())
        from segue.cli.commands import root

        return finish(root(arguments))
    except SystemExit as leaving:
        return finish(leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None))
    except BaseException as error:
        from segue.cli import failures

        return failures.report(error)


def finish(code: int) -> int:
    """Flush what was printed, so that a reader that went away is noticed here and not while Python shuts down."""
    from segue.cli import output

    return code if output.flush() else output.BROKEN_PIPE
