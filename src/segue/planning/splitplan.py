"""Writes the plan of a split: each domain is copied, its keys that cross are cut, and it is switched, one by one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from segue.model.splits import CrossingKey, Domain, Split, Survey


def write(split: Split, survey: Survey) -> dict[str, Any]:
    """Return the document of a plan that carries the split out, on the environment that it splits.

    The domains go in the file's order. Each is a phase of its own: copied beside the application, then switched. What
    is undone is undone domain by domain, the last one first.
    """
    steps: list[dict[str, Any]] = []
    for domain in split.domains:
        if domain.to != split.source:
            steps += _phase(split, domain, survey, needs=[steps[-1]["name"]] if steps else [])
    moved = [domain for domain in split.domains if domain.to != split.source]
    return {
        "plan": f"split-{split.name}",
        "version": "1.0.0",
        "description": f"Split {split.source} into {', '.join(domain.to for domain in moved)}, one domain at a time.",
        "prerequisites": [
            "the tables of each domain are in its database, empty, with their keys, indexes and sequences",
            "the application finds each domain's database by its routing, and tries SQLSTATE 40001 again",
        ],
        "steps": steps,
    }


def _phase(split: Split, domain: Domain, survey: Survey, needs: list[str]) -> list[dict[str, Any]]:
    """Return the steps that bring one domain to its database."""
    cut = [key for key in survey.crossing if key.to_domain == domain.name]
    tables = sorted(table for table, home in survey.tables.items() if home == domain.name)
    steps: list[dict[str, Any]] = [
        {
            "name": f"read-{copy.name}",
            "kind": "move",
            "description": f"Keep read-only copies of shared tables in {copy.to}: {', '.join(copy.tables)}.",
            "action": "start",
            "move": copy.name,
            "to": copy.to,
            "tables": list(copy.tables),
            "read_only": True,
        }
        for copy in survey.copies
        if copy.domain == domain.name
    ]
    steps += [
        {
            "name": f"copy-{domain.name}",
            "kind": "move",
            "description": f"Copy {len(tables)} tables to {domain.to}, and follow what the application writes.",
            "action": "start",
            "move": domain.name,
            "to": domain.to,
            "tables": tables,
        }
    ]
    if cut:
        steps.append(
            {
                "name": f"cut-{domain.name}",
                "kind": "sql",
                "description": f"Foreign keys to tables of {domain.name} from those of other domains, which no server "
                "can enforce between two databases; `segue move probe` looks whether they hold.",
                "sql": "".join(f"ALTER TABLE {key.table} DROP CONSTRAINT {_quoted(key.name)};\n" for key in cut),
                "reverse": [_restored(key) for key in cut],
            }
        )
    steps.append(
        {
            "name": f"switch-{domain.name}",
            "kind": "move",
            "description": f"Close the tables here and open them in {domain.to}.",
            "action": "switch",
            "move": domain.name,
        }
    )
    if split.routing is not None:
        steps.append(
            {
                "name": f"route-{domain.name}",
                "kind": "sql",
                "description": f"Send the application's work on {domain.name} to {domain.to}.",
                "sql": _filled(split.routing.switch, domain),
                "reverse": _filled(split.routing.reverse, domain),
            }
        )
    for step in steps:
        step["stage"] = domain.name
        if needs:
            step["needs"] = needs
        needs = [step["name"]]
    return steps


def _restored(key: CrossingKey) -> str:
    """Return the statements that add a key again, the rows checked beside the writers."""
    name = _quoted(key.name)
    definition = key.definition.removesuffix(" NOT VALID")
    return (
        f"ALTER TABLE {key.table} ADD CONSTRAINT {name} {definition} NOT VALID;\n"
        f"ALTER TABLE {key.table} VALIDATE CONSTRAINT {name}"
    )


def _filled(statement: str, domain: Domain) -> str:
    for word, value in (("{domain}", domain.name), ("{to}", domain.to)):
        statement = statement.replace(word, "'" + value.replace("'", "''") + "'")
    return statement


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
