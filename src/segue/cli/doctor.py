"""Say what is set up, what is wrong, and what to type next."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from segue.cli import output
from segue.cli._options import Format, Json
from segue.cli.commands import noun
from segue.cli.output import Form
from segue.errors import ExitCode

if TYPE_CHECKING:
    from segue.services.doctor import Report

app = noun(__doc__, example="segue doctor")


@app.command()
def doctor(format_: Format = Form.TEXT, json_: Json = False) -> int:
    """Say what is set up, what is wrong, and what to type next.

    Looks at the settings, the store (which is made when there is none yet), the key, and at every environment's
    database. Exits with 1 when something is wrong.

    Example:
        segue doctor
    """
    from segue import settings, wiring
    from segue.services.doctor import examine

    def probe(url: str) -> Any:
        return wiring.parts().database(url).probe(url)

    report = examine(settings.load, probe)
    if output.as_json():
        output.document(report.as_json())
    else:
        _print(report)
    return int(ExitCode.FINDINGS if report.problems else ExitCode.DONE)


def _print(report: Report) -> None:
    store = report.store
    if store["server_version"]:
        kind = f"embedded, in {report.home}" if report.embedded else store["url"]
        words = f"PostgreSQL {store['server_version']}, schema {store['schema_head']} ({kind})"
    else:
        words = "not usable, see below"
    pairs: list[tuple[str, Any]] = [("segue", report.version), ("store", words)]
    if store["server_version"]:
        pairs += [
            ("environments", len(report.environments) or "none yet"),
            ("plans", report.plans or "none yet"),
            ("workers", len(report.workers) or "none; commands run plans themselves"),
        ]
    output.fields(pairs)
    if report.environments:
        output.data()
        output.table(
            ["environment", "type", "database", "server"],
            [
                [
                    found["name"],
                    found["type"],
                    found["database"],
                    _seen(found),
                ]
                for found in report.environments
            ],
        )
    for problem in report.problems:
        output.data()
        output.data(f"{output.paint('problem', 'red')}  {problem.what}: {problem.why}")
        output.data(f"{output.paint('do', 'bold')}       {problem.do}")
    if report.next and not report.problems:
        output.data()
        for at, command in enumerate(report.next):
            output.data(f"{output.paint('next', 'bold') if at == 0 else 'or  '}  {command}")
    elif not report.problems:
        output.say("nothing is wrong")


def _seen(found: dict[str, Any]) -> str:
    if found["reachable"] is None:
        return "not looked at"
    return f"PostgreSQL {found['server_version']}" if found["reachable"] else "not reachable"
