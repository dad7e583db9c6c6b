"""Check environments: what a migration could trip over, which replicas to expect, whether it is the same database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from segue import clock
from segue.errors import UsageError
from segue.model.checks import Checkup, Finding, Light, Replica, worst
from segue.services import environments

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from segue.ports import Parts
    from segue.settings import Settings
    from segue.store import Store
    from segue.store.tables.environments import EnvironmentRow

_WORDS = ("system_identifier", "database_oid", "database")


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check came to; `replicas` are those to expect from now on, `unseen` the signals that the role misses."""

    environment: str
    at: datetime
    identity: Mapping[str, Any]
    findings: Sequence[Finding]
    replicas: Sequence[str]
    seen: Sequence[Replica]
    unseen: Sequence[str]

    @property
    def light(self) -> Light:
        """Return the worst light of all findings."""
        return worst(self.findings)

    def as_json(self) -> dict[str, Any]:
        """Return what `segue env check --json` promises."""
        return {
            "ok": self.light is not Light.RED,
            "environment": self.environment,
            "at": self.at,
            "light": self.light.value,
            "identity": {word: self.identity.get(word) for word in _WORDS},
            "replicas": list(self.replicas),
            "replicas_seen": [replica.as_json() for replica in self.seen],
            "unseen": list(self.unseen),
            "findings": [finding.as_json() for finding in self.findings],
        }


# -- which database it is


def identity(url: str, parts: Parts) -> dict[str, Any]:
    """Return what tells a database from every other one; None for what cannot be seen."""
    return parts.database(url).identity(url)


def same_target(env_row: EnvironmentRow, found: Mapping[str, Any]) -> bool | None:
    """Return whether an environment's URL leads to the database that it led to before; None when that cannot be told.

    A renamed database is the same one, and so is a replica that was promoted; a restored dump is another one.
    """
    known = env_row.identity
    if not known or known.get("database_oid") is None or found.get("database_oid") is None:
        return None
    if known.get("system_identifier") and found.get("system_identifier"):
        return _key(known) == _key(found)
    # Every new server numbers its databases alike: equal numbers prove nothing, other ones do.
    if known["database_oid"] != found["database_oid"]:
        return False
    return None


def since(env_row: EnvironmentRow) -> datetime | None:
    """Return since when the environment leads to its present database; what ran before, ran on another one."""
    known = env_row.identity or {}
    return datetime.fromisoformat(known["since"]) if known.get("since") and known.get("earlier") else None


def remember(session: Session, env_row: EnvironmentRow, found: Mapping[str, Any], *, actor: str) -> bool:
    """Keep which database an environment leads to; return whether it is another one than before.

    The earlier ones are kept with the time at which they were left, and the ledger has an entry.
    """
    from segue.store import ledger

    now = clock.now().isoformat()
    known = dict(env_row.identity or {})
    new = {word: found.get(word) for word in _WORDS}
    if not known:
        env_row.identity = {**new, "since": now, "earlier": []}
        return False
    if same_target(env_row, found) is not False:
        kept = {word: new[word] if new[word] is not None else known.get(word) for word in _WORDS}
        env_row.identity = {**known, **kept}
        return False
    before = {word: known.get(word) for word in _WORDS}
    earlier = [*known.get("earlier", []), {**before, "since": known.get("since"), "until": now}]
    env_row.identity = {**new, "since": now, "earlier": earlier}
    ledger.append(
        session,
        actor=actor,
        action="repointed",
        subject="environments",
        subject_id=env_row.id,
        detail={"name": env_row.name, "before": before, "now": new},
    )
    return True


def _key(words: Mapping[str, Any]) -> tuple[str, int]:
    return str(words["system_identifier"]), int(words["database_oid"])


# -- checking


def check(
    store: Store, settings: Settings, parts: Parts, name: str, *, expect: Sequence[str] = (), forget: Sequence[str] = ()
) -> Checked:
    """Check an environment's database, and keep what was found with the environment.

    `expect` and `forget` are names of replicas that a person says are to be expected, or not any more. Raises
    UsageError for a name that is neither expected nor connected, TargetUnreachable when nothing can be looked at.
    """
    with store.session() as session:
        row, url = environments.resolve(session, settings, name)
        schema = row.schema_name
        _refuse_both(expect, forget)
    checkup = parts.database(url).check(url, schema=schema)
    with store.session() as session:
        row = environments.get(session, name)
        session.refresh(row, with_for_update=True)
        moved = remember(session, row, checkup.identity, actor=settings.user)
        expected = _expected(row, checkup, expect, forget, moved=moved)
        findings = [*checkup.findings, *_of_replicas(name, checkup, expected), *_of_identity(row, moved=moved)]
        found = Checked(
            environment=name,
            at=clock.now(),
            identity=checkup.identity,
            findings=findings,
            replicas=expected["replicas"],
            seen=checkup.replicas or (),
            unseen=checkup.unseen,
        )
        content = {**found.as_json(), "at": found.at.isoformat(), "by": settings.user}
        if expect or forget:
            _keep_word(session, row, expected["replicas"], expect, forget, settings.user)
        # The limits of data work (`segue throttle --env`) stand there too, and are no finding.
        limits = {"limits": row.checked["limits"]} if row.checked and "limits" in row.checked else {}
        row.checked = {**content, **expected, **limits}
    return found


def _refuse_both(expect: Sequence[str], forget: Sequence[str]) -> None:
    both = sorted(set(expect) & set(forget))
    if both:
        raise UsageError(f'"{both[0]}" is to be expected and to be forgotten', hint="say one of them")
    if any(not word.strip() for word in (*expect, *forget)):
        raise UsageError("a replica has a name", hint="its application_name, as pg_stat_replication shows it")


def _expected(
    row: EnvironmentRow, checkup: Checkup, expect: Sequence[str], forget: Sequence[str], *, moved: bool
) -> dict[str, list[str]]:
    """Return the replicas to expect, those that a person named, and those that a person wants to be forgotten."""
    before = row.checked or {}
    said = {*before.get("said", []), *expect} - set(forget)
    # Of another server nothing is expected but what a person said.
    known = set() if moved else set(before.get("replicas", []))
    seen = {replica.name for replica in checkup.replicas or ()}
    strange = [name for name in forget if name not in known | set(before.get("said", [])) | seen]
    if strange:
        raise UsageError(
            f'no replica "{strange[0]}" is expected, and none is connected',
            hint=f"expected are: {', '.join(sorted(known)) or 'none'}",
        )
    forgotten = ({*before.get("forgotten", []), *forget} - set(expect)) if not moved else set(forget)
    return {
        "replicas": sorted((known | said | seen) - forgotten),
        "said": sorted(said),
        "forgotten": sorted(forgotten),
    }


def _of_replicas(environment: str, checkup: Checkup, expected: Mapping[str, Sequence[str]]) -> list[Finding]:
    if checkup.replicas is None:
        return []
    seen = {replica.name: replica for replica in checkup.replicas}
    findings = [
        Finding(
            Light.RED,
            f"replica {name}",
            "expected, and not connected: data work would wait for it",
            f"bring it back, or `segue env check {environment} --forget-replica {name}`",
        )
        for name in expected["replicas"]
        if name not in seen
    ]
    here = [name for name in expected["replicas"] if name in seen]
    if here:
        hidden = any(seen[name].state is None for name in here)
        words = ", ".join(f"{name} ({seen[name].state or 'state hidden'})" for name in here)
        findings.append(
            Finding(
                Light.AMBER if hidden else Light.GREEN,
                "replicas",
                f"{words}: expected from now on" + (", though how far they are cannot be seen" if hidden else ""),
                "as an administrator: GRANT pg_read_all_stats to this role" if hidden else "",
            )
        )
    elif not findings:
        findings.append(Finding(Light.GREEN, "replicas", "none connected, none expected"))
    ignored = sorted(set(seen) & set(expected["forgotten"]))
    if ignored:
        words = f"{', '.join(ignored)}: need not be there, as was said"
        findings.append(Finding(Light.GREEN, "other replicas", words))
    return findings


def _of_identity(row: EnvironmentRow, *, moved: bool) -> list[Finding]:
    if not moved:
        return []
    earlier = (row.identity or {})["earlier"][-1]
    return [
        Finding(
            Light.AMBER,
            "database",
            f'another one than before: until now "{earlier["database"]}" of server {earlier["system_identifier"]}',
            "nothing that ran there counts as done here; `segue plan assess` looks at the new one",
        )
    ]


def _keep_word(
    session: Session,
    row: EnvironmentRow,
    replicas: Sequence[str],
    expect: Sequence[str],
    forget: Sequence[str],
    actor: str,
) -> None:
    from segue.store import ledger

    ledger.append(
        session,
        actor=actor,
        action="replicas-expected",
        subject="environments",
        subject_id=row.id,
        detail={"name": row.name, "expect": list(expect), "forget": list(forget), "replicas": list(replicas)},
    )
