"""The engine's logical plans as Substrait, and that as dictionaries which can be cut.

Functions have numbers in a Substrait plan. Here they have their names in that place, so that parts of different plans
can be put together; `Dialect.encode` numbers them again. Columns have numbers everywhere, and no names.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

import pyarrow as pa
from datafusion import SessionConfig, SessionContext
from datafusion.substrait import Plan, Producer

from eau2.distributed.fragment import CannotCut
from eau2.query.sessions import consumed, cut, deal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from datafusion import DataFrame

Rel = dict[str, Any]  # {"filter": {...}}: a relation, by its kind
Expression = dict[str, Any]

_CALLS = ("scalarFunction", "windowFunction", "measure")
_RELS = ("input", "left", "right")
_URN = 4294967295  # that the engine gives to its own functions
_ONE_SIDED = ("LEFT_SEMI", "LEFT_ANTI", "RIGHT_SEMI", "RIGHT_ANTI")

# What Substrait leaves out without a word, as the engine's plans show it.
_LOST = {
    "IGNORE NULLS": "IGNORE NULLS",
    r"WindowAggr:.*FILTER \(WHERE": "a window with a filter",
    r"WindowAggr:.*\(DISTINCT ": "a window over distinct values",
    r"RANGE BETWEEN (?!UNBOUNDED PRECEDING AND (?:CURRENT ROW|UNBOUNDED FOLLOWING)"
    r"|CURRENT ROW AND (?:CURRENT ROW|UNBOUNDED FOLLOWING))": "a window over a range of values",
    # Times with a zone have UTC there. That is as good where they are only compared; and a column keeps its own.
    r'Timestamp\([^()"]*"(?!UTC"|\+00:00")': "the zone that a time is cast to",
    r'(?<![=<>] )Timestamp\w+\([-\d]+, Some\("(?!UTC"|\+00:00")': "the zone of a time",
}


VOLATILE = ("random", "uuid")  # functions that say something else each time they are asked


class Dialect:
    """Turns plans into dictionaries and back, over tables without rows. For one query; not thread-safe."""

    def __init__(self) -> None:
        config = SessionConfig().set("datafusion.sql_parser.map_string_types_to_utf8view", "false")
        self.session = SessionContext(config)

    def relation(self, frame: DataFrame) -> Rel:
        """Return the optimized plan of `frame`. CannotCut when it cannot be said in Substrait."""
        optimized = frame.optimized_logical_plan()
        text = optimized.display_indent()
        for pattern, what in _LOST.items():
            if re.search(pattern, text):
                raise CannotCut(f"Substrait does not say {what}")
        try:
            plan = json.loads(Producer.to_substrait_plan(optimized, self.session).to_json())
        except BaseException as error:  # the engine panics in places
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CannotCut(f"Substrait cannot say it: {_first_line(error)}") from None
        names: dict[int, str] = {}
        for extension in plan.get("extensions", []):
            function = extension.get("extensionFunction")
            if function is None:
                raise CannotCut(f"Substrait has no type for it: {extension}")
            names[function.get("functionAnchor", 0)] = function["name"]
        (relation,) = plan["relations"]
        found: Rel = relation["root"]["input"]
        if any("struct" in str(node["cast"].get("type")) for node in _dicts(found) if "cast" in node):
            raise CannotCut("Substrait does not say the names in a struct")
        for each in _calls(found):
            each["functionReference"] = names[each.get("functionReference", 0)]
        return found

    def has(self, type_: pa.DataType) -> bool:
        """Whether columns of `type_` can be said in Substrait."""
        try:
            self.table("type", numbered([type_]))
        except CannotCut:
            return False
        finally:
            self.session.deregister_table("type")
        return True

    def encode(self, rel: Rel) -> bytes:
        """Return the plan that answers with the rows of `rel`."""
        numbers: dict[str, int] = {}
        # As text: of every eighth or so floating point number the engine's reader of JSON gets the last bit wrong.
        copied: Rel = json.loads(json.dumps(rel), parse_float=str)
        for each in _calls(copied):
            each["functionReference"] = numbers.setdefault(each["functionReference"], len(numbers))
        functions = [
            {"extensionFunction": {"extensionUrnReference": _URN, "functionAnchor": number, "name": name}}
            for name, number in numbers.items()
        ]
        plan = {"version": {"minorNumber": 85}, "extensions": functions, "relations": [{"rel": copied}]}
        encoded: bytes = Plan.from_json(json.dumps(plan)).encode()
        return encoded

    def schema(self, rel: Rel) -> pa.Schema:
        """Return the types of the columns of `rel`, named c0, c1, ... CannotCut when the engine does not take it."""
        try:
            found = self.session.create_dataframe_from_logical_plan(consumed(self.session, self.encode(rel))).schema()
        except BaseException as error:
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            raise CannotCut(f"the engine cannot read its own Substrait: {_first_line(error)}") from None
        if len(found) != width(rel):
            raise CannotCut(f"{len(found)} columns came of a plan of {width(rel)}")
        return numbered(found.types)

    def table(self, name: str, schema: pa.Schema, columns: int | None = None) -> Rel:
        """Make the table `name` known, and return the relation that reads it, or its first `columns`."""
        known = schema if len(schema) else pa.schema([("c0", pa.int8())])
        self.session.register_record_batches(name, [[empty_batch(known)]])
        rel = self.relation(self.session.table(name))
        selected = range(len(schema) if columns is None else columns)
        rel["read"]["projection"] = {"select": {"structItems": [{"field": index} for index in selected]}}
        return rel


def numbered(types: Sequence[pa.DataType]) -> pa.Schema:
    """Return the schema with columns c0, c1, ... of `types`."""
    return pa.schema([pa.field(f"c{index}", type_) for index, type_ in enumerate(types)])


def empty_batch(schema: pa.Schema) -> pa.RecordBatch:
    """Return a batch of `schema` without rows, also where it has unions, of which Arrow makes no empty table."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def register(
    session: SessionContext, name: str, batches: Sequence[pa.RecordBatch], schema: pa.Schema, parts: int
) -> None:
    """Make `batches`, which may be none, the table `name` of `session`, read by up to `parts` threads."""
    dealt = deal(cut(batches), parts)
    session.register_record_batches(name, dealt if any(dealt) else [[empty_batch(schema)]])


# -- relations ---------------------------------------------------------------------------------------------------------


def kind_of(rel: Rel) -> tuple[str, dict[str, Any]]:
    """Return what `rel` is, and its body."""
    ((kind, body),) = rel.items()
    return kind, body


def width(rel: Rel) -> int:
    """Return how many columns `rel` has. CannotCut for what is not known here."""
    kind, body = kind_of(rel)
    emit = body.get("common", {}).get("emit")
    if emit is not None:
        return len(emit.get("outputMapping", ()))
    if kind == "read":
        return _read_width(body)
    if kind in ("filter", "sort", "fetch"):
        return width(body["input"])
    if kind == "project":
        return width(body["input"]) + len(body.get("expressions", ()))
    if kind == "aggregate":
        sets = body.get("groupings", ())
        return len(body.get("groupingExpressions", ())) + len(body.get("measures", ())) + (len(sets) > 1)
    if kind == "join":
        return _join_width(body)
    if kind == "cross":
        return width(body["left"]) + width(body["right"])
    if kind == "set":
        return width(body["inputs"][0])
    raise CannotCut(f"it has a {kind}")


def _read_width(body: dict[str, Any]) -> int:
    if "virtualTable" in body:
        rows = body["virtualTable"].get("expressions", ())
        return len(rows[0].get("fields", ()) if rows else body["baseSchema"]["struct"].get("types", ()))
    if "projection" in body:
        return len(body["projection"]["select"].get("structItems", ()))
    return len(body["baseSchema"]["struct"].get("types", ()))


def _join_width(body: dict[str, Any]) -> int:
    kind = body["type"].removeprefix("JOIN_TYPE_")
    left, right = width(body["left"]), width(body["right"])
    if kind in _ONE_SIDED:
        return left if kind.startswith("LEFT") else right
    if kind in ("LEFT_MARK", "RIGHT_MARK"):
        return (left if kind == "LEFT_MARK" else right) + 1
    return left + right


def inputs_of(rel: Rel) -> list[Rel]:
    """Return the relations right below `rel`, those in subqueries of its expressions not among them."""
    _, body = kind_of(rel)
    return [body[name] for name in _RELS if name in body] + list(body.get("inputs", ()))


def with_inputs(rel: Rel, inputs: Sequence[Rel]) -> Rel:
    """Return `rel` over `inputs` in place of its own."""
    kind, body = kind_of(rel)
    body = dict(body)
    left = list(inputs)
    for name in _RELS:
        if name in body:
            body[name] = left.pop(0)
    if "inputs" in body:
        body["inputs"] = left
    return {kind: body}


def reads(rel: Rel) -> Iterator[str]:
    """Yield the name of each table that `rel` reads, also in subqueries."""
    for node in _dicts(rel):
        if "namedTable" in node:
            yield node["namedTable"]["names"][-1]


def project(rel: Rel, expressions: Sequence[Expression]) -> Rel:
    """Return `rel` with `expressions` as its only columns."""
    before = width(rel)
    mapping = list(range(before, before + len(expressions)))
    return {
        "project": {
            "common": {"emit": {"outputMapping": mapping}},
            "input": rel,
            "expressions": list(expressions),
        }
    }


# -- expressions -------------------------------------------------------------------------------------------------------


def field(index: int) -> Expression:
    """Return the expression for a column."""
    return {"selection": {"directReference": {"structField": {"field": index}}, "rootReference": {}}}


def call(function: str, *arguments: Expression) -> Expression:
    """Return the expression for a call of a function of the engine."""
    return {"scalarFunction": {"functionReference": function, "arguments": [{"value": each} for each in arguments]}}


def field_of(expression: Expression) -> int | None:
    """Return the column that `expression` is, or None when it is something else."""
    if set(expression) != {"selection"}:
        return None
    reference = expression["selection"].get("directReference", {})
    if "rootReference" not in expression["selection"] or set(reference) != {"structField"}:
        return None
    part = reference["structField"]
    return None if "child" in part else int(part.get("field", 0))


def fields(expression: Any) -> set[int]:
    """Return the columns that `expression` uses. CannotCut where it looks out of a subquery."""
    found = set()
    for node in _dicts(expression):
        if "outerReference" in node:
            raise CannotCut("it has a correlated subquery")
        if "rootReference" in node:
            found.add(int(node.get("directReference", {}).get("structField", {}).get("field", 0)))
    return found


def shifted(expression: Expression, by: int) -> Expression:
    """Return `expression` with `by` added to each column."""
    copied: Expression = json.loads(json.dumps(expression))
    for node in _dicts(copied):
        if "rootReference" in node:
            part = node["directReference"]["structField"]
            part["field"] = int(part.get("field", 0)) + by
    return copied


def is_volatile(expression: Expression) -> bool:
    """Whether `expression` may come to something else for the same row when it is asked again."""
    return any(each["functionReference"] in VOLATILE for each in _calls(expression))


def conjuncts(expression: Expression) -> list[Expression]:
    """Return what `expression` is the conjunction of."""
    function = expression.get("scalarFunction", {})
    if function.get("functionReference") != "and":
        return [expression]
    return [part for argument in function["arguments"] for part in conjuncts(argument["value"])]


def map_subqueries(rel: Rel, function: Callable[[Rel], Rel]) -> Rel:
    """Return `rel` with `function` applied to the relation of each scalar subquery in its own expressions."""
    kind, body = kind_of(rel)
    below = {"inputs", "input", "left", "right"}
    return {kind: {name: value if name in below else _mapped(value, function) for name, value in body.items()}}


def _mapped(value: Any, function: Callable[[Rel], Rel]) -> Any:
    if isinstance(value, list):
        return [_mapped(each, function) for each in value]
    if not isinstance(value, dict):
        return value
    if "subquery" in value:
        if "scalar" not in value["subquery"]:
            raise CannotCut("it has a subquery that is no scalar")
        return {"subquery": {"scalar": {"input": function(value["subquery"]["scalar"]["input"])}}}
    return {name: _mapped(each, function) for name, each in value.items()}


def _dicts(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for each in value.values():
            yield from _dicts(each)
    elif isinstance(value, list):
        for each in value:
            yield from _dicts(each)


def _calls(value: Any) -> Iterator[dict[str, Any]]:
    for node in _dicts(value):
        for name in _CALLS:
            if name in node and isinstance(node[name], dict):
                yield node[name]


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]
