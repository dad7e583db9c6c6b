"""Write what of the documentation is generated: the pages of commands and locks, the tour's outputs in `README.md`.

    python docs/write.py commands   # from the help
    python docs/write.py locks      # from what was measured of each form of a statement
    python docs/write.py rules      # from the rules of lint
    python docs/write.py tour       # needs a server: PGHOST, PGUSER, PGPASSWORD …, and a SEGUE_HOME without "staging"

The tour's commands are the `sh` blocks of `README.md` under a comment `<!-- tour -->`, or `<!-- tour: exit 2 -->` where
they end with another code. What they print stands in the `text` block that follows.
"""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent

_BLOCK = re.compile(
    r"^<!-- tour(?:: exit (?P<code>\d+))? -->\n```sh\n(?P<script>.*?)^```\n(?:```text\n(?P<output>.*?)^```\n)?",
    re.MULTILINE | re.DOTALL,
)
_END = "\x1eended "


@dataclass(frozen=True)
class Block:
    """Commands of the tour, the code that the last of them ends with, and what they print (both streams)."""

    script: str
    code: int
    output: str


def tour(text: str) -> list[Block]:
    """Return the tour's blocks in the order of the text."""
    return [Block(found["script"], int(found["code"] or 0), found["output"] or "") for found in _BLOCK.finditer(text)]


def walk(blocks: list[Block], environ: Mapping[str, str], timeout: float) -> list[Block]:
    """Run the blocks one after the other in one shell, and return them as they really went."""
    # In a file, and not from stdin, which a command could read.
    script = "exec 2>&1 < /dev/null\n" + "\n".join(f"{block.script}\nprintf '{_END}%d\\n' $?" for block in blocks)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=ROOT,
        env={**environ, "NO_COLOR": "1"},
        stdout=subprocess.PIPE,
        text=True,
        timeout=timeout,
        check=False,
    )
    said = re.split(re.escape(_END) + r"(\d+)\n", done.stdout)
    return [
        # The shell's own words about a killed command name the shell, a line and a process.
        Block(block.script, int(code), re.sub(r"^\S*bash: .*\bKilled\b.*$", "Killed", output, flags=re.MULTILINE))
        for block, output, code in zip(blocks, said[0::2], said[1::2], strict=False)
    ]


def commands() -> str:
    """Return the page of all commands: their helps, as the terminal shows them."""
    words = [
        "# Commands",
        "",
        "What `--help` says. Written by `python docs/write.py commands`; a test compares.",
        "",
    ]
    for name in _names():
        words += [f"## {' '.join(['segue', *name])}", "", "```text", _help(*name).strip(), "```", ""]
    return "\n".join(words).rstrip() + "\n"


def rules() -> str:
    """Return the page of the rules of lint, and of the hazards that are no rules."""
    import yaml

    from segue.lint.rules import rules as found

    words = [
        "# Rules",
        "",
        "What [`segue lint`](lint.md) looks for. `segue explain RULE` says the same in the terminal. Locks and times",
        "are [what was measured](locks.md); the cases of each are tried on a real server. Written",
        "by `python docs/write.py rules`; a test compares.",
        "",
    ]
    for name, rule in sorted(found().items()):
        words += [
            f"## {name}",
            "",
            f"*{rule.severity.value}.* When {rule.condition}. Then {rule.effect}. Instead: {rule.instead}.",
            "",
            "```sql",
            f"{rule.bad}  -- found",
            f"{rule.good}  -- not found",
            "```",
            "",
        ]
    words += ["## What is no rule", ""]
    reasons = yaml.safe_load((ROOT / "tests/lint/NOT_RULES.yaml").read_text("utf-8"))
    words += [f"- {reason[0].upper()}{reason[1:]}." for _, reason in sorted(reasons.items())]
    return "\n".join(words).rstrip() + "\n"


def _names() -> list[tuple[str, ...]]:
    found: list[tuple[str, ...]] = [()]
    for name in _listed(_help()):
        found.append((name,))
        found += [(name, verb) for verb in _listed(_help(name))]
    return found


def _listed(words: str) -> list[str]:
    listing = words.partition("\nCommands:\n")[2].partition("\n\n")[0]
    return re.findall(r"^  (\S+)", listing, re.MULTILINE)


def _help(*words: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "segue", *words, "--help"],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "100"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout


LOCKS = """# What statements lock, and for how long

Measured on real servers, PostgreSQL 14 to 18. Written by `python docs/write.py locks`; a test runs every statement and
compares. Segue's predictions read the same table.

A lock is on the table that the statement names, unless another is said: the *parent* or *child* of a foreign key, a
*partition*, the *default partition*, what a table is *inherited* from, the users of a domain or type, the table's
indexes. What the statement itself creates is left out: nobody else sees it.

ACCESS EXCLUSIVE blocks reads and writes, EXCLUSIVE, SHARE ROW EXCLUSIVE and SHARE block writes. SHARE UPDATE EXCLUSIVE
blocks neither, but other changes of the schema, VACUUM and ANALYZE. The weaker ones are those of
queries and writes. Whoever waits for a lock makes everybody wait who comes later and wants one that conflicts with it.

How long the lock is held: *instant* does not depend on the table's size; a *scan* reads the tables in brackets; an
*index build* reads the table and writes an index; a *rewrite* writes the tables in brackets anew, with all of their
indexes; *data* is what the statement reads or writes. A form that stands *alone* may not be in a transaction. No
versions are named where 14 to 18 do the same; versions that are left out refuse the form.
"""


def locks() -> str:
    """Return the page of locks: each form, family by family."""
    import yaml

    from segue.databases.postgresql import forms

    words = [LOCKS]
    for path in sorted(Path(forms.__file__).parent.glob("*.yaml")):
        text = path.read_text()
        title = text.partition("\n")[0].removeprefix("# ").partition(". ")[0].rstrip(".")
        words += [f"## {title}", "", "| Form | Statement | Versions | Locks | Duration |", f"|{' --- |' * 5}"]
        for key in yaml.safe_load(text):
            words += _rows(forms.form(key))
        words.append("")
    return "\n".join(words).rstrip() + "\n"


def _rows(form: Any) -> Iterator[str]:
    """Yield a row for all versions that do the same; those that refuse the form have none."""
    known = [major for major in sorted(form.facts) if not form.facts[major].error]
    example = form.example.replace("|", "\\|")
    for said, group in itertools.groupby(known, key=lambda major: _said(form.facts[major])):
        majors = list(group)
        span = "" if len(majors) == len(form.facts) else "-".join(map(str, dict.fromkeys((majors[0], majors[-1]))))
        yield f"| {form.key} | {form.words}: `{example}` | {span} | {said} |"


def _said(facts: Any) -> str:
    # Every query holds the weak locks on indexes.
    taken = {role: lock.value for role, lock in facts.locks.items() if role != "index" or lock.rank > 3}
    named = [lock if role == "table" else f"{role}: {lock}" for role, lock in sorted(taken.items(), key=_first)]
    held = facts.duration.value
    over = sorted(facts.rewrites or facts.scans)
    if over and over != ["table"]:
        held += f" ({', '.join(over)})"
    if facts.waits:
        held = f"{held}, waits" if facts.duration.value != "wait for snapshots" else "waits"
        held += f" for older transactions{' that use the table' if facts.waits == 'users' else ''}"
    return f"{'; '.join(named) or 'none'} | {held}{', alone' if facts.alone else ''}"


def _first(taken: tuple[str, str]) -> tuple[bool, str]:
    return taken[0] != "table", taken[0]


def _write_tour() -> None:
    path = ROOT / "README.md"
    text = path.read_text()
    plan = (ROOT / "examples/full-name.yaml").read_text()
    text = re.sub(r"^```yaml\n.*?^```\n", lambda _: f"```yaml\n{plan}```\n", text, flags=re.MULTILINE | re.DOTALL)
    went = iter(walk(tour(text), os.environ, timeout=300))

    def fill(found: re.Match[str]) -> str:
        real = next(went)
        if real.code != int(found["code"] or 0):
            sys.exit(f"exit code {real.code} of\n{real.script}{real.output}")
        head = found[0].partition("```text\n")[0]
        # The folders of one machine say nothing to a reader.
        output = re.sub(r"\S*/(?=shop\b)", "localhost/", real.output)
        return f"{head}```text\n{output}```\n" if output else head

    path.write_text(_BLOCK.sub(fill, text))


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["commands"]:
            (ROOT / "docs/commands.md").write_text(commands())
        case ["locks"]:
            (ROOT / "docs/locks.md").write_text(locks())
        case ["rules"]:
            (ROOT / "docs/rules.md").write_text(rules())
        case ["tour"]:
            _write_tour()
        case _:
            sys.exit(__doc__)
