"""The graph of a plan's steps: order, levels, circles, and how it is drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


def cycle(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return steps that need each other in a circle, the first one again at the end; empty when there is none."""
    done: set[str] = set()
    for start in needs:
        trail: list[str] = []
        on_trail: set[str] = set()
        stack: list[tuple[str, int]] = [(start, 0)]
        while stack:
            step, position = stack.pop()
            if position == 0:
                if step in done:
                    continue
                trail.append(step)
                on_trail.add(step)
            wanted = needs.get(step, ())
            if position < len(wanted):
                stack.append((step, position + 1))
                following = wanted[position]
                if following in on_trail:
                    return [*trail[trail.index(following) :], following]
                if following in needs:
                    stack.append((following, 0))
            else:
                done.add(step)
                trail.pop()
                on_trail.discard(step)
    return []


def order(needs: Mapping[str, Sequence[str]]) -> list[str]:
    """Return the steps so that each comes after what it needs; otherwise the given order holds.

    Raises ValueError when they need each other in a circle.
    """
    found: list[str] = []
    done: set[str] = set()
    waiting = list(needs)
    while waiting:
        ready = next((step for step in waiting if all(need in done for need in needs[step])), None)
        if ready is None:
            raise ValueError(f"steps need each other in a circle: {' → '.join(cycle(needs))}")
        waiting.remove(ready)
        done.add(ready)
        found.append(ready)
    return found


def levels(needs: Mapping[str, Sequence[str]]) -> list[list[str]]:
    """Return the steps in layers: those of one layer need nothing of each other or of a later layer."""
    depth: dict[str, int] = {}
    for step in order(needs):
        depth[step] = 1 + max((depth[need] for need in needs[step]), default=-1)
    found: list[list[str]] = [[] for _ in range(1 + max(depth.values(), default=-1))]
    for step in needs:
        found[depth[step]].append(step)
    return found


def text(needs: Mapping[str, Sequence[str]], kinds: Mapping[str, str], *, ascii_only: bool = False) -> str:
    """Draw the graph as layers: one line a step, what it waits for behind it."""
    arrow = "<-" if ascii_only else "←"
    mark = "|" if ascii_only else "│"
    width = max((len(step) for step in needs), default=0)
    across = max((len(kind) for kind in kinds.values()), default=0)
    numbers = {step: number for number, step in enumerate(needs, 1)}
    lines = []
    layers = levels(needs)
    for position, layer in enumerate(layers, 1):
        for index, step in enumerate(layer):
            head = f"{position:>2}" if index == 0 else "  "
            wanted = ", ".join(needs[step])
            line = f"{head} {mark} {numbers[step]:>3}. {step:<{width}}  {kinds.get(step, ''):<{across}}"
            lines.append((line + (f"  {arrow} {wanted}" if wanted else "")).rstrip())
    return "\n".join(lines)


def mermaid(needs: Mapping[str, Sequence[str]], kinds: Mapping[str, str]) -> str:
    """Draw the graph in Mermaid's language."""
    identifiers = {step: f"s{number}" for number, step in enumerate(needs, 1)}
    lines = ["flowchart TD"]
    lines += [f'  {identifiers[step]}["{step}<br/><i>{kinds.get(step, "")}</i>"]' for step in needs]
    lines += [f"  {identifiers[need]} --> {identifiers[step]}" for step, wanted in needs.items() for need in wanted]
    return "\n".join(lines)


def dot(needs: Mapping[str, Sequence[str]], kinds: Mapping[str, str], title: str) -> str:
    """Draw the graph in Graphviz' language."""
    lines = [f'digraph "{title}" {{', "  rankdir=TB;", "  node [shape=box, style=rounded];"]
    lines += [f'  "{step}" [label="{step}\\n{kinds.get(step, "")}"];' for step in needs]
    lines += [f'  "{need}" -> "{step}";' for step, wanted in needs.items() for need in wanted]
    return "\n".join([*lines, "}"])
