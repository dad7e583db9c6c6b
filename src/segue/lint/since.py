"""What has changed since a commit: only that is reported, the rest is what happened before."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from difflib import SequenceMatcher
from pathlib import Path
from typing import TYPE_CHECKING

from segue.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from segue.lint.report import Report

#: Lines above which a changed file counts as changed from end to end: comparing more takes too long.
MANY = 20_000


@dataclass(frozen=True, slots=True)
class Since:
    """The files that changed since a commit, or since the branch left it, with what they were."""

    changed: dict[Path, str | None]  # None: it was not there

    def keep(self, report: Report) -> None:
        """Leave in a report what is said of lines that changed."""
        for file in report.files:
            path = Path(file.path).resolve()
            if path not in self.changed:
                file.findings, file.unanalysed, file.broken = [], [], None
                continue
            before = self.changed[path]
            if before is None:
                continue
            spans = list(_spans(before.splitlines(), file.text.splitlines()))
            file.findings = [
                found
                for found in file.findings
                if _touched(
                    spans,
                    found.line,
                    file.ends.get((found.line, found.column), found.line + found.statement.count("\n")),
                )
            ]
            file.unanalysed = [
                (line, column, why)
                for line, column, why in file.unanalysed
                if _touched(spans, line, file.ends.get((line, column), line))
            ]


def since(ref: str) -> Since:
    """Return what changed since a commit. Raises UsageError where git does not know it, or there is no repository."""
    base = _git("merge-base", ref, "HEAD", otherwise=ref).strip()
    root = Path(_git("rev-parse", "--show-toplevel").rstrip("\n"))
    _git("rev-parse", "--verify", "--quiet", f"{base}^{{commit}}")
    changed: dict[Path, str | None] = {}
    words = _git("diff", "--name-status", "--no-renames", "-z", base, cwd=root).split("\0")
    for status, name in zip(words[:-1:2], words[1::2], strict=True):
        if status != "D":
            changed[(root / name).resolve()] = None if status == "A" else _git("show", f"{base}:{name}", cwd=root)
    for name in _git("ls-files", "--others", "--exclude-standard", "-z", cwd=root).split("\0"):
        if name:
            changed[(root / name).resolve()] = None
    return Since(changed)


def _git(*arguments: str, cwd: Path | None = None, otherwise: str | None = None) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=cwd, capture_output=True, check=False)
    except OSError as error:
        raise UsageError("--git-base needs git, which is not here") from error
    if done.returncode:
        if otherwise is not None:
            return otherwise
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise UsageError(f"git does not know what has changed: {said[0] if said else 'there is no such commit'}")
    return done.stdout.decode(errors="replace")


def _spans(before: list[str], now: list[str]) -> Iterator[tuple[int, int]]:
    """Yield the lines that changed, from 1; where lines went, the two around them as (line, line - 1)."""
    if max(len(before), len(now)) > MANY:
        yield 1, len(now)
        return
    for verb, _, _, begin, end in SequenceMatcher(None, before, now, autojunk=False).get_opcodes():
        if verb != "equal":
            yield begin + 1, end


def _touched(spans: list[tuple[int, int]], first: int, last: int) -> bool:
    """Return whether lines changed, or went from between them."""
    return any(first <= end and begin <= last if begin <= end else first < begin <= last for begin, end in spans)
