"""Write what of the documentation is generated: `docs/commands.md` from the help, the tour's outputs in `README.md`.

    python docs/write.py commands
    python docs/write.py tour       # needs a server: PGHOST, PGUSER, PGPASSWORD …, and a SEGUE_HOME without "staging"

The tour's commands are the `sh` blocks of `README.md` under a comment `<!-- tour -->`, or `<!-- tour: exit 2 -->` where
they end with another code. What they print stands in the `text` block that follows.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

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
        case ["tour"]:
            _write_tour()
        case _:
            sys.exit(__doc__)
