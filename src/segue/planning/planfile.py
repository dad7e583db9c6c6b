"""Plan files: YAML or JSON to a Plan and back, each problem with its line and column, and the published schema."""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError

from segue.errors import InvalidInput, SqlSyntaxError
from segue.model.plans import Expectation, PlanFields, StepFields
from segue.planning import graph, strategies
from segue.planning.yamlnodes import Node, Problem, Tree, UnreadableError, from_value
from segue.planning.yamlnodes import read as read_tree

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic_core import ErrorDetails

    from segue.ports import Database, StepKind

M = TypeVar("M", bound=BaseModel)

SCHEMA_ID = "https://segue.dev/schemas/plan-1.json"
#: Bytes that a plan file may have; what is longer is a mistake, or meant to exhaust memory.
MAX_BYTES = 1_000_000


class Plan(PlanFields):
    """A plan as a value: the fields of a plan file and its steps, each of its kind's own class."""

    steps: list[SerializeAsAny[StepFields]] = Field(min_length=1, description="What is done, in the file's order.")


class InvalidPlan(InvalidInput):
    """A plan file is wrong: the first problem is the message, all of them are in `problems`."""

    code = "S013"

    def __init__(self, source: str, problems: list[Problem], tree: Tree | None) -> None:
        problems = sorted(dict.fromkeys(problems), key=lambda problem: (problem.line, problem.column))
        lines = [f"{source}:{problem.line}:{problem.column}: {problem.message}" for problem in problems]
        shown = [tree.excerpt(problem.line, problem.column) if tree else [] for problem in problems]
        details = list(shown[0])
        for line, excerpt in zip(lines[1:], shown[1:], strict=True):
            details += [line, *excerpt]
        super().__init__(lines[0], hint="`segue plan schema` prints what a plan file may hold", details=details)
        self.problems = problems
        self.source = source

    def as_json(self) -> dict[str, object]:
        """Return the error with each problem's place, so that an editor can show them all."""
        problems = [{"line": one.line, "column": one.column, "message": one.message} for one in self.problems]
        return {**super().as_json(), "source": self.source, "problems": problems}


def read(
    text: str,
    *,
    source: str,
    kinds: Mapping[str, StepKind],
    database: Database | None = None,
    folder: Path | None = None,
) -> Plan:
    """Read a plan file. With a database its SQL is parsed too; files that it names are looked for in `folder`.

    Raises InvalidPlan with every problem that could be found in one go.
    """
    try:
        tree = read_tree(text)
    except UnreadableError as error:
        raise InvalidPlan(source, [error.problem], _lines_of(text)) from error
    return _Reader(tree, source, kinds, database, folder).plan()


def from_document(document: Mapping[str, Any], kinds: Mapping[str, StepKind], *, source: str = "plan") -> Plan:
    """Return the plan of a document that `document()` gave, or that came in as JSON."""
    return _Reader(from_value(document), source, kinds, None, None).plan()


def document(plan: Plan) -> dict[str, Any]:
    """Return the plan as JSON values, in the file's words, without what is only a default."""
    return _as_document(plan)


def digest(plan: Plan) -> str:
    """Return the plan's content hash: comments, key order and ways of writing a duration do not change it."""
    canonical = json.dumps(document(plan), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def json_schema(kinds: Mapping[str, StepKind]) -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of plan files with these step kinds."""
    from pydantic.json_schema import models_json_schema

    models: list[tuple[type[BaseModel], Any]] = [(PlanFields, "validation")]
    models += [(kind.Params, "validation") for kind in kinds.values()]
    places, definitions = models_json_schema(models, by_alias=True, ref_template="#/$defs/{model}")
    parts: dict[str, Any] = definitions["$defs"]

    def named(model: type[BaseModel]) -> str:
        return str(places[(model, "validation")]["$ref"]).removeprefix("#/$defs/")

    plan = parts.pop(named(PlanFields))
    choices = []
    for name in sorted(kinds):
        reference = named(kinds[name].Params)
        step = parts[reference]
        step["title"] = f"{name} step"
        step["properties"]["kind"] = {"const": name, "description": f"The kind of the step: {name}."}
        step["required"] = sorted({*step.get("required", []), "name", "kind"})
        choices.append({"$ref": f"#/$defs/{reference}"})
    steps = {
        "type": "array",
        "minItems": 1,
        "title": "Steps",
        "description": "What is done. A step waits for the steps that it `needs`; otherwise the file's order holds.",
        "items": {
            "type": "object",
            "required": ["name", "kind"],
            "properties": {"kind": {"enum": sorted(kinds), "description": "The kind of the step."}},
            "oneOf": choices,
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA_ID,
        "title": "Segue plan",
        "description": "A database migration: its steps, how each is checked and how each is undone.",
        "type": "object",
        "properties": {**plan["properties"], "steps": steps},
        "required": [*plan["required"], "steps"],
        "additionalProperties": False,
        "$defs": parts,
    }


def _as_document(model: BaseModel) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, field in type(model).model_fields.items():
        value = getattr(model, name)
        # An expected NULL is written `scalar: null`: left out, it would mean that no result is expected.
        said = isinstance(model, Expectation) and name in model.model_fields_set
        said = said or (name == "scalar" and name in model.model_fields_set)
        if name == "kind" or said or field.is_required() or value != field.get_default(call_default_factory=True):
            found[field.alias or name] = _as_value(value)
    return found


def _as_value(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return _as_document(value)
    if isinstance(value, Mapping):
        return {str(key): _as_value(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_as_value(inner) for inner in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def _lines_of(text: str) -> Tree:
    return Tree(text[:2_000_000], Node(0, 0))


class _Reader:
    """One pass over one file, which goes on after a problem as long as there is something to look at."""

    def __init__(
        self,
        tree: Tree,
        source: str,
        kinds: Mapping[str, StepKind],
        database: Database | None,
        folder: Path | None,
    ) -> None:
        self.tree = tree
        self.source = source
        self.kinds = kinds
        self.database = database
        self.folder = folder
        self.problems = list(tree.problems)

    def plan(self) -> Plan:
        root = self.tree.root
        if root.entries is None:
            self._at(root, "a plan file is a mapping that begins with `plan: NAME`")
            raise self._invalid()
        steps_node = root.get("steps")
        fields = {key: entry.value.plain() for key, entry in root.entries.items() if key != "steps"}
        plan = self._validated(PlanFields, fields, root, "", extra=("steps",))
        steps = self._steps(root, steps_node)
        for item in self._items(root, "depends_on"):
            if plan is not None and item.value == plan.plan:
                self._at(item, f'plan "{plan.plan}" depends on itself')
        if self.database is not None and plan is not None:
            # Not for a stored plan: one of an older version must still be readable, to be rolled back.
            for field, message in strategies.problems(plan):
                self._at(root.get(field) or root, message)
        if self.problems or plan is None:
            raise self._invalid()
        given = {name: getattr(plan, name) for name in plan.model_fields_set}
        return Plan(**given, steps=[step for step, _ in steps])

    def _items(self, node: Node, key: str) -> list[Node]:
        found = node.get(key)
        return (found.items if found is not None else None) or []

    def _invalid(self) -> InvalidPlan:
        return InvalidPlan(self.source, self.problems, self.tree)

    def _at(self, node: Node, message: str) -> None:
        self.problems.append(Problem(node.line + 1, node.column + 1, message))

    # -- steps -------------------------------------------------------------------------------------------------------

    def _steps(self, root: Node, node: Node | None) -> list[tuple[StepFields, Node]]:
        if node is None:
            self._at(root, 'missing field "steps"')
            return []
        if not node.items:
            self._at(node, '"steps" must be a list of at least one step')
            return []
        found: list[tuple[StepFields, Node]] = []
        for item in node.items:
            step = self._step(item)
            if step is not None:
                found.append((step, item))
        self._names_and_needs(node.items)
        self._sql(found)
        return found

    def _step(self, node: Node) -> StepFields | None:
        if node.entries is None:
            self._at(node, "a step is a mapping with `name` and `kind`")
            return None
        name = node.get("name")
        where = f'step "{name.value}": ' if name is not None and isinstance(name.value, str) else ""
        kind = node.get("kind")
        if kind is None:
            self._at(node, f'{where}missing field "kind": one of {_listed(self.kinds)}')
            return None
        if not isinstance(kind.value, str) or kind.value not in self.kinds:
            self._at(kind, f'{where}"{kind.plain()}" is not a kind of step{_meant(kind.value, self.kinds)}')
            return None
        step = self._validated(self.kinds[kind.value].Params, node.plain(), node, where)
        if step is None:
            return None
        try:
            prepared: StepFields = self.kinds[kind.value].prepare(step, self.folder)
        except InvalidInput as error:
            message = f"{where}{error.message}" + (f" ({error.hint})" if error.hint else "")
            self._at(_meant_by(error.message, node), message)
            return None
        return prepared

    def _names_and_needs(self, nodes: list[Node]) -> None:
        names: dict[str, Node] = {}
        needs: dict[str, list[str]] = {}
        for node in nodes:
            name = node.get("name")
            if name is None or not isinstance(name.value, str):
                continue
            if name.value in names:
                self._at(name, f'step "{name.value}" is there twice, first in line {names[name.value].line + 1}')
                continue
            names[name.value] = name
            wanted = node.get("needs")
            items = wanted.items if wanted is not None and wanted.items else []
            needs[name.value] = [item.value for item in items if isinstance(item.value, str)]
        for node in nodes:
            name, wanted = node.get("name"), node.get("needs")
            seen: set[str] = set()
            for item in (wanted.items if wanted is not None else None) or []:
                if not isinstance(item.value, str):
                    continue
                if name is not None and item.value == name.value:
                    self._at(item, f'step "{item.value}" needs itself')
                elif item.value not in names:
                    self._at(item, f'there is no step "{item.value}" to need{_meant(item.value, names)}')
                elif item.value in seen:
                    self._at(item, f'"{item.value}" is needed twice')
                seen.add(item.value)
        known = {step: [need for need in wanted if need in names and need != step] for step, wanted in needs.items()}
        cycle = graph.cycle(known)
        if cycle:
            chain = " → ".join(f'"{step}"' for step in cycle)
            self._at(names[cycle[0]], f"steps need each other in a circle: {chain}")

    # -- fields ------------------------------------------------------------------------------------------------------

    def _validated(
        self, model: type[M], values: Any, node: Node, where: str, *, extra: tuple[str, ...] = ()
    ) -> M | None:
        before = len(self.problems)
        allowed = _keys_of(model)
        for key, entry in (node.entries or {}).items():
            if key not in allowed and key not in extra:
                self._at(entry.key, f'{where}unknown key "{key}"{_meant(key, allowed, known=None)}')
                values.pop(key, None)
        try:
            value = model.model_validate(values)
        except ValidationError as error:
            for item in error.errors(include_url=False):
                self._field(item, model, node, where)
            return None
        return value if len(self.problems) == before else None

    def _field(self, error: ErrorDetails, model: type[BaseModel], node: Node, where: str) -> None:
        place, at_key, path = node, False, []
        for part in error["loc"]:
            step: Node | None = None
            if isinstance(part, int) and place.items is not None and part < len(place.items):
                step = place.items[part]
            elif isinstance(part, str) and place.entries is not None and part in place.entries:
                entry = place.entries[part]
                at_key = error["type"] == "extra_forbidden"
                step = entry.key if at_key and part == error["loc"][-1] else entry.value
            if step is None:
                # Parts that are not in the file name a missing field, or a branch of a choice inside pydantic.
                if error["type"] == "missing" and part == error["loc"][-1]:
                    path.append(str(part))
                continue
            path.append(str(part) if isinstance(part, str) else f"{part + 1}")
            place = step
        field = ".".join(path)
        if any((place.line + 1, place.column + 1) == (found.line, found.column) for found in self.tree.problems):
            return  # an alias or the like stands there: what is wrong has been said
        self._at(place, where + _worded(error, field))

    # -- SQL ---------------------------------------------------------------------------------------------------------

    def _sql(self, steps: list[tuple[StepFields, Node]]) -> None:
        if self.database is None:
            return
        for step, node in steps:
            kind = self.kinds[step.kind]
            before = len(self.problems)
            for look in (kind.statements, kind.reverse):
                try:
                    look(step, self.database)
                except InvalidInput as error:
                    self._refused(error, step, node)
            if step.check_after is not None:
                self._query(step, node, step.check_after.query)
            if len(self.problems) == before:
                try:
                    for message in kind.problems(step, self.database):
                        self._at(_meant_by(message, node), f'step "{step.name}": {message}')
                except InvalidInput as error:
                    self._refused(error, step, node)

    def _query(self, step: StepFields, node: Node, query: str) -> None:
        assert self.database is not None  # noqa: S101  # asked before
        try:
            found = self.database.statements(query)
        except InvalidInput as error:
            self._refused(error, step, node)
            return
        if len(found) != 1 or found[0].verb != "SELECT" or found[0].lock.rank > 1:
            validate = node.get("validate")
            place = (validate.get("query") if validate else None) or node
            self._at(place, f'step "{step.name}": a validation query is one SELECT that only reads')

    def _refused(self, error: InvalidInput, step: StepFields, node: Node) -> None:
        message = f'step "{step.name}": {error.message}' + (f" ({error.hint})" if error.hint else "")
        if isinstance(error, SqlSyntaxError):
            place = self._place(error, node)
            if place is not None:
                self.problems.append(Problem(*place, message))
                return
        self._at(node.get("name") or node, message)

    def _place(self, error: SqlSyntaxError, node: Node) -> tuple[int, int] | None:
        """Return where in the file the SQL stands that a parser refused, found by its text."""
        for text in node.texts():
            if text.value == error.sql or (text.value.strip() and text.value.strip() == error.sql.strip()):
                shift = len(text.value) - len(text.value.lstrip()) if text.value != error.sql else 0
                return self.tree.place(text, min(error.offset + shift, len(text.value)))
        inside = []
        for text in node.texts():
            begin = error.sql.find(text.value) if len(text.value) > 1 else -1
            # What comes after an expression is refused when the expression breaks off: its end is the place then.
            until = begin + len(text.value)
            if 0 <= begin <= error.offset and not error.sql[until : error.offset].strip():
                inside.append((len(text.value), begin, text))
        if not inside:
            return None
        _, begin, text = max(inside, key=lambda found: found[0])
        return self.tree.place(text, min(error.offset - begin, len(text.value)))


def _meant_by(message: str, node: Node) -> Node:
    """Return the field of a step that a message is about: what it names in backquotes, from outside in; or the name."""
    place = node
    for word in re.findall(r"`(\w+)`", message):
        place = place.get(word) or place
    return place if place is not node else node.get("name") or node


def _keys_of(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _meant(word: Any, names: Any, known: str | None = "known") -> str:
    """Return the end of a message that offers the nearest word, or all there are."""
    close = difflib.get_close_matches(str(word), list(names), n=1, cutoff=0.6)
    if close:
        return f'; did you mean "{close[0]}"?'
    if known is None:
        return ""
    return f"; there is {_listed(names)}" if names else ""


_WORDS = {
    "string_type": "must be a text",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a smaller number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "dict_type": "must be a mapping",
    "model_type": "must be a mapping",
    "model_attributes_type": "must be a mapping",
    "none_required": "must be left out",
}


def _worded(error: ErrorDetails, field: str) -> str:
    kind, given, context = error["type"], error["input"], error.get("ctx", {})
    if kind == "missing":
        return f'missing field "{field}"'
    if kind == "extra_forbidden":
        return f'unknown key "{field}"'
    if kind == "string_pattern_mismatch":
        if field.rsplit(".", 1)[-1] == "version":
            return f'"{given}" is not a semantic version; write for example 1.0.0'
        return f'"{given}" is not a name: lower-case letters, digits, "-" and "_", at most 63 characters'
    if kind == "literal_error":
        close = difflib.get_close_matches(str(given), str(context.get("expected", "")).split("'")[1::2], n=1)
        meant = f'; did you mean "{close[0]}"?' if close else ""
        expected = str(context.get("expected", "")).replace("'", '"')
        return f'"{field}" is "{given}", but must be {expected}{meant}'
    if kind == "value_error":
        return f"{_named(field)}{context.get('error', error['msg'])}"
    if kind == "string_type" and isinstance(given, int | float) and not isinstance(given, bool):
        return f'"{field}" must be a text: put {json.dumps(given)} in quotes'
    if kind in _WORDS:
        return f'"{field}" {_WORDS[kind]}, not {_described(given)}'
    message = error["msg"]
    return f'"{field}": {message[:1].lower()}{message[1:]}'


def _named(field: str) -> str:
    return f'"{field}": ' if field else ""


def _described(value: Any) -> str:
    if value is None:
        return "empty"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, dict):
        return "a mapping"
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 40 else text[:37] + "…"
