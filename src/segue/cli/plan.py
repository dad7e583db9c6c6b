"""Keep plans: check plan files, store them, look at what they will do."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import _yaml, output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode

if TYPE_CHECKING:
    from segue.planning.prediction import Prediction
    from segue.services.plans import Checked

app = noun(__doc__, example="segue plan validate migration.yaml")

File = Annotated[str, typer.Argument(metavar="FILE", help="A plan file (YAML or JSON); - reads it from a pipe.")]
Stored = Annotated[str, typer.Argument(metavar="PLAN", help="A stored plan's name.", show_default=False)]
Either = Annotated[
    str, typer.Argument(metavar="PLAN", help="A stored plan's name, or a plan file.", show_default=False)
]


class Drawing(StrEnum):
    """How a graph is drawn."""

    TEXT = "text"
    MERMAID = "mermaid"
    DOT = "dot"
    JSON = "json"


@app.command()
def add(file: File, format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Store a plan file, so that it can be run, approved and looked at by name.

    The same content again changes nothing. A plan that was executed takes other content only under a new version, and
    none while an execution of it can still go on (exit 3).

    Examples:
        segue plan add migration.yaml
        generate-plan | segue plan add -
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import plans
    from segue.store import open_store

    text, source = plans.read_source(file)
    checked = plans.check(text, source, wiring.parts())
    settings = loader.load()
    with open_store(settings) as store, store.session() as session:
        added = plans.add(session, settings, checked)
        content = plans.describe(added.row)
    if output.as_json():
        output.document({"ok": True, "outcome": added.outcome, "plan": content})
        return
    words = {"added": "added", "replaced": "replaced", "unchanged": "is stored already, with this content"}
    output.say(
        f'plan "{content["name"]}" {content["version"]} {words[added.outcome]}: '
        f"{_counted(len(checked.plan.steps), 'step')}, "
        f"risk {content['risk_level']}, about {_minutes(content['estimated_minutes'])} (predicted)"
    )
    _findings(checked.prediction)


@app.command("list")
def list_(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """List the stored plans.

    Example:
        segue plan list --json
    """
    from segue import settings as loader
    from segue.services import plans
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        rows = [plans.describe(row) for row in plans.listed(session)]
    if output.as_json():
        output.document({"plans": rows})
        return
    if not rows:
        output.say("there are no plans yet; add one with `segue plan add FILE`")
    output.table(
        ["name", "version", "status", "risk", "complexity", "estimate", "schema", "description"],
        [
            [
                row["name"],
                row["version"],
                row["status"],
                _level(row["risk_level"]),
                row["complexity"],
                _minutes(row["estimated_minutes"]),
                row["target_schema"],
                _short(row["description"]),
            ]
            for row in rows
        ],
    )


@app.command()
def show(
    plan: Stored,
    yaml: Annotated[bool, typer.Option("--yaml", help="Print the plan as a plan file.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Show a stored plan: its fields, its steps, and what each will do.

    Examples:
        segue plan show customers-full-name
        segue plan show customers-full-name --yaml > migration.yaml
    """
    from segue import settings as loader
    from segue import wiring
    from segue.services import plans
    from segue.store import open_store

    with open_store(loader.load()) as store, store.session() as session:
        row = plans.get(session, plan)
        content, document = plans.describe(row), row.document
        checked = plans.stored(row, wiring.parts())
    if output.as_json():
        output.document(
            {"plan": {**content, "document": document, "prediction": checked.prediction.as_json()}},
        )
        return
    if yaml:
        output.data(_yaml.plan(document))
        return
    output.fields(
        [
            ("name", content["name"]),
            ("version", content["version"]),
            ("description", content["description"]),
            ("status", content["status"]),
            ("schema", content["target_schema"]),
            ("phase", content["phase"]),
            ("strategy", content["strategy"]),
            ("needs plans", ", ".join(content["depends_on"]) or None),
            ("beforehand", "; ".join(content["prerequisites"]) or None),
            ("rollback", content["rollback_plan"]),
            ("hash", content["plan_hash"][:12]),
            ("from", content["source"]),
            ("added", f"{content['created_at']:%Y-%m-%d %H:%M} UTC by {content['created_by']}"),
        ]
    )
    output.data()
    _steps(checked)


@app.command()
def validate(
    file: File,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when the risk is high or critical.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Check a plan file and say what each step will do: lock, what it blocks, how long, how it is undone.

    Told from the file alone (predicted): no database and no store is needed. A file that is wrong exits with 2 and
    names every problem with line and column.

    Examples:
        segue plan validate migration.yaml
        segue plan validate migration.yaml --strict --json
    """
    from segue import wiring
    from segue.model.vocabulary import Level
    from segue.services import beginnings, plans

    text, source = plans.read_source(file)
    parts = wiring.parts()
    checked = plans.check(text, source, parts)
    refused = beginnings.refused(checked.plan, parts)
    risky = checked.prediction.risk in (Level.HIGH, Level.CRITICAL)
    if output.as_json():
        output.document(
            {
                "ok": True,
                "source": source,
                "plan": checked.plan.plan,
                "version": checked.plan.version,
                "plan_hash": checked.digest,
                "refused": refused,
                "prediction": checked.prediction.as_json(),
            }
        )
    else:
        _steps(checked)
        if refused is not None:
            output.warn(f"`segue run` would refuse it: {refused}")
    return int(ExitCode.FINDINGS if strict and risky else ExitCode.DONE)


@app.command()
def assess(
    plan: Either,
    environment: Annotated[str, typer.Option("--env", "-e", help="The environment.", show_default=False)],
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when the risk is high or critical.")] = False,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> int:
    """Say what a plan meets in an environment: locks, who is in the way, rows and bytes, how long, what it risks.

    Looks at the environment's database for about a second: nothing is changed, no table is scanned, no lock waited
    for. Estimates come from the tables' statistics and the measured speed of the server; they are right within a factor
    of a few. What was found is kept with the stored plan, as it is before each run.

    Examples:
        segue plan assess customers-full-name --env production
        segue plan assess migration.yaml --env staging --strict --json
    """
    from segue import settings as loader
    from segue import wiring
    from segue.cli import _assessment
    from segue.model.vocabulary import Level
    from segue.services import assessments, environments, plans
    from segue.store import open_store

    parts = wiring.parts()
    checked = plans.check(*plans.read_source(plan), parts) if plans.looks_like_file(plan) else None
    settings = loader.load()
    with open_store(settings) as store:
        with store.session() as session:
            if checked is None:
                checked = plans.stored(plans.get(session, plan), parts)
            row, url = environments.resolve(session, settings, environment)
        found = assessments.assess(store, settings, parts, checked.plan, row, url)
    if not found.assessed:
        output.warn(found.unknown[0] + " could not be looked at")
    if output.as_json():
        output.document({"ok": True, "assessment": found.as_json()})
    else:
        _assessment.draw(found, row.url_hint or "")
    risky = found.risk in (Level.HIGH, Level.CRITICAL)
    return int(ExitCode.FINDINGS if strict and risky else ExitCode.DONE)


@app.command()
def document(
    plan: Either,
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Say how it is there: assess it in this environment.", show_default=False),
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Write the document that a migration is decided upon, as Markdown, from the plan.

    Its parts: phases, risk assessment and mitigation, testing and validation, rollback procedures, performance
    monitoring, communication plan. With --env they say what an assessment finds there. `segue explain` has every step
    in full.

    Examples:
        segue plan document migration.yaml > decision.md
        segue plan document split-shop --env production
    """
    from segue import wiring
    from segue.cli import _layout
    from segue.services import documents, explanations, plans

    parts = wiring.parts()
    checked = plans.check(*plans.read_source(plan), parts) if plans.looks_like_file(plan) else None
    if checked is not None and environment is None:
        found = explanations.explain(checked, parts)
    else:
        from segue import settings as loader

        found, unseen = explanations.explain_in(loader.load(), plan, checked, environment, parts)
        if unseen:
            output.warn(f"{unseen} could not be looked at")
    sections = documents.sections(found)
    if output.as_json():
        content = [
            {"title": one.title, "words": one.words, "points": [list(point) for point in one.points]}
            for one in sections
        ]
        output.document({"document": {"plan": found.plan, "version": found.version, "sections": content}})
        return
    output.data(output.paint(f"# {found.plan} {found.version}", "bold"))
    output.data()
    _layout.paragraph(" ".join(found.description.split()))
    for section in sections:
        output.data()
        output.data(output.paint(f"## {section.title}", "bold"))
        output.data()
        _layout.paragraph(section.words)
        output.data()
        for label, text in section.points:
            _layout.paragraph(f"**{label}:** {text}" if label else text, first="- ", indent="  ")


@app.command()
def graph(
    plan: Either,
    format_: Annotated[Drawing, typer.Option("--format", help="How to draw it.")] = Drawing.TEXT,
    json_: Json = False,
) -> None:
    """Draw which step waits for which.

    Examples:
        segue plan graph migration.yaml
        segue plan graph customers-full-name --format mermaid
    """
    from segue import wiring
    from segue.services import plans

    if plans.looks_like_file(plan):
        text, source = plans.read_source(plan)
        found = plans.check(text, source, wiring.parts()).plan
    else:
        from segue import settings as loader
        from segue.store import open_store

        with open_store(loader.load()) as store, store.session() as session:
            found = plans.stored(plans.get(session, plan), wiring.parts()).plan
    if output.as_json():
        output.document({"plan": found.plan, "graph": plans.as_graph(found)})
        return
    output.data(plans.drawn(found, format_.value, ascii_only=not _draws(sys.stdout.encoding)))


@app.command()
def schema(format_: Format = Form.TEXT, json_: Json = False) -> None:
    """Print the JSON Schema of plan files, so that an editor completes and checks them.

    Example:
        segue plan schema > plan.schema.json
    """
    import json

    from segue import wiring
    from segue.planning import planfile

    content = planfile.json_schema(wiring.parts().steps)
    if output.as_json():
        # Still a schema: validators pass over a keyword that they do not know.
        output.document(content)
        return
    # The schema itself, without our mark: what editors take.
    output.data(json.dumps(content, indent=2, ensure_ascii=False))


def _steps(checked: Checked) -> None:
    prediction = checked.prediction
    output.table(
        ["#", "step", "kind", "lock", "blocks", "held for", "transaction", "undo", "risk"],
        [
            [
                step.number,
                step.name,
                step.kind,
                step.lock.value.lower() or "none",
                step.blocks,
                step.duration.value,
                "yes" if step.transactional else "no",
                step.undo or "not possible",
                _level(step.risk.value),
            ]
            for step in prediction.steps
        ],
    )
    output.data()
    plan = checked.plan
    output.data(
        f"{plan.plan} {plan.version}: risk {_level(prediction.risk.value)}, complexity {prediction.complexity.value}, "
        f"about {_minutes(prediction.minutes)} (all predicted from the statements)"
    )
    for step in prediction.steps:
        for note in step.notes:
            output.data(f"  {step.name}: {note}")
    _findings(prediction)


def _findings(prediction: Prediction) -> None:
    for reason in prediction.reasons:
        output.warn(reason)


def _level(word: str) -> str:
    style = {"high": "yellow", "critical": "red"}.get(word)
    return output.paint(word, style) if style else word


def _minutes(minutes: int) -> str:
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"


def _counted(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 60 else line[:59] + "…"


def _draws(encoding: str | None) -> bool:
    try:
        "│←".encode(encoding or "ascii")
    except (LookupError, UnicodeEncodeError):
        return False
    return True
