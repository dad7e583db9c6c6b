"""Put a plan into words, or a rule of `segue lint`: what happens, what the application notices, what to do."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from segue.cli import _layout, output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form

if TYPE_CHECKING:
    from segue.lint.rule import Rule
    from segue.services.explanations import Explanation, StepWords

app = noun(__doc__, example="segue explain migration.yaml")


@app.command()
def explain(
    plan: Annotated[
        str,
        typer.Argument(
            metavar="PLAN|RULE", help="A stored plan's name, a plan file, or a rule of segue lint.", show_default=False
        ),
    ],
    environment: Annotated[
        str | None,
        typer.Option("--env", "-e", help="Say how it is there: assess it in this environment.", show_default=False),
    ] = None,
    format_: Format = Form.TEXT,
    json_: Json = False,
) -> None:
    """Put a plan into words, as Markdown: what each step does, which lock it takes, what the application notices.

    Needs no database for a plan file, and none but the store for a stored plan. With --env the environment's database
    is looked at for a second, as `segue plan assess` does; where it cannot be reached, the last assessment counts.
    The name of a rule of `segue lint` says what it finds, why that is bad, and what to write instead.

    Examples:
        segue explain migration.yaml
        segue explain customers-full-name --env production > review.md
        segue explain create-index-not-concurrently
    """
    from segue.lint.rules import rules

    rule = rules().get(plan)
    if rule is not None:
        _draw_rule(rule)
        return
    from segue import wiring
    from segue.services import explanations, plans

    parts = wiring.parts()
    checked = plans.check(*plans.read_source(plan), parts) if plans.looks_like_file(plan) else None
    if checked is not None and environment is None:
        found = explanations.explain(checked, parts)
    else:
        from segue import settings as loader

        found, unseen = explanations.explain_in(loader.load(), plan, checked, environment, parts)
        if unseen:
            output.warn(f"{unseen} could not be looked at")
    if output.as_json():
        output.document({"explanation": found.as_json()})
    else:
        _draw(found)


def _draw_rule(rule: Rule) -> None:
    if output.as_json():
        words = {"condition": rule.condition, "effect": rule.effect, "instead": rule.instead}
        examples = {"before": rule.before or None, "bad": rule.bad, "good": rule.good}
        output.document({"rule": {"name": rule.name, "severity": rule.severity.value, **words, **examples}})
        return
    output.data(output.paint(f"# {rule.name} ({rule.severity.value})", "bold"))
    output.data()
    for label, text in (("Found when", rule.condition), ("Then", rule.effect), ("Instead", rule.instead)):
        _bullet(label, text + ".")
    for label, text in (("In an earlier file", rule.before), ("Bad", rule.bad), ("Good", rule.good)):
        if not text:
            continue
        output.data()
        output.data(f"{label}:")
        output.data()
        output.data("```sql")
        output.data(text)
        output.data("```")


def _draw(found: Explanation) -> None:
    output.data(output.paint(f"# {found.plan} {found.version}", "bold"))
    for text in (found.description, found.summary):
        output.data()
        _layout.paragraph(" ".join(text.split()))
    output.data()
    for label, text in (
        ("Strategy", found.strategy),
        ("Approvals", found.approvals),
        ("Windows", found.windows),
        ("Way back", found.rollback),
    ):
        _bullet(label, text)
    for text in found.beforehand:
        _bullet("Beforehand", text)
    if found.risks:
        output.data()
        output.data(output.paint("## Risks", "bold"))
        output.data()
        for text in found.risks:
            _bullet("", text)
    for step in found.steps:
        _step(step, found.environment or "there")
    if found.unknown:
        output.data()
        output.data(output.paint("## Not known", "bold"))
        output.data()
        for text in found.unknown:
            _bullet("", text + ".")


def _step(step: StepWords, environment: str) -> None:
    output.data()
    output.data(output.paint(f"## {step.number}. {step.name} ({step.kind})", "bold"))
    if step.description:
        output.data()
        _layout.paragraph(" ".join(step.description.split()))
    if step.sql:
        output.data()
        output.data("```sql")
        output.data(textwrap.dedent(step.sql).strip())
        output.data("```")
    output.data()
    if step.needs:
        _bullet("After", ", ".join(f"`{name}`" for name in step.needs) + ".")
    for label, text in (
        ("Does", step.does),
        ("Approval", step.approval),
        ("Lock", step.lock),
        ("The application", step.application),
        ("Checked", step.checked),
        ("Undone", step.undone),
        ("When it fails", step.failure),
    ):
        _bullet(label, text)
    for text in step.facts:
        _bullet(f"In {environment}", text)
    for text in step.notes:
        _bullet("Note", text)


def _bullet(label: str, text: str) -> None:
    if text:
        _layout.paragraph(f"**{label}:** {text}" if label else text, first="- ", indent="  ")
