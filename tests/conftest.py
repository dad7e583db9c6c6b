"""Load every `fix_*.py` beside this file, so that a new set of fixtures is one new file."""

from __future__ import annotations

from pathlib import Path

pytest_plugins = sorted(path.stem for path in Path(__file__).parent.glob("fix_*.py"))
