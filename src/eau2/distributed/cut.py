"""Where a query is cut: which parts of its plan run on the nodes, and how rows move between them.

A plan is placed from its leaves up. A part of it is where its rows are: on the nodes that have the chunks, in
partitions, or in one place. Where the next operation needs them elsewhere, the part is a *stage*: it runs, and what it
made is read by what follows, whole by every node (broadcast), by partition (exchange), or in one place (gather).

What a stage has made is known before it is decided how it moves.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from eau2.distributed import substrait
from eau2.distributed.aggregates import split
from eau2.distributed.fragment import CannotCut
from eau2.distributed.hashing import can_hash
from eau2.distributed.joins import Join, not_in
from eau2.distributed.parts import Part, Scan, Stage, Where
from eau2.distributed.substrait import field_of, inputs_of, is_volatile, kind_of, width, with_inputs

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from eau2.distributed.absent import Absent
    from eau2.distributed.aggregates import SplitAggregate
    from eau2.distributed.parts import Output
    from eau2.distributed.substrait import Dialect, Expression, Rel

MEMORY_SHARE = 4  # what is sent to all nodes, and a partition, are at most this part of a node's memory
PARTITIONS_MAX = 1024
_FILTERED, _GROUPED = 3, 5  # guesses: one row in so many is left


class Runs(Protocol):
    """What runs stages, or only says what they might make."""

    node_count: int
    memory_bytes: int  # of each
    partitions: int  # that rows are hashed to
    gather_bytes_max: int  # of groups, and rows to be grouped, that are not worth being sent to partitions

    def run(self, stage: Stage, cut: Cut) -> Output:
        """Run `stage` to its end. Its plan reads `cut.scans` and `cut.inputs`."""


class Cut:
    """Cuts one plan, running its stages as it goes. `tables` are those that the plan's names mean."""

    def __init__(self, dialect: Dialect, tables: Mapping[str, tuple[Absent, Sequence[int]]], runs: Runs) -> None:
        self.dialect = dialect
        self.runs = runs
        self.scans: dict[str, Scan] = {}  # by the name in the plan of a stage
        self.inputs: dict[str, Output] = {}  # likewise
        self._tables = tables

    def place(self, rel: Rel) -> Part:
        """Return `rel` placed. CannotCut for what has no place."""
        kind, body = kind_of(rel)
        if kind not in ("project",) and "emit" in body.get("common", {}):
            raise CannotCut(f"it has a {kind} that picks columns")
        try:
            return getattr(self, f"_place_{kind}")(substrait.map_subqueries(rel, self._scalar))  # type: ignore[no-any-return]
        except AttributeError:
            if hasattr(self, f"_place_{kind}"):
                raise
            raise CannotCut(f"it has a {kind}") from None

    def stage(self, part: Part, keys: Sequence[Expression] = (), *, in_order: bool = False) -> Output:
        """Run `part`; with `keys`, its rows are hashed to partitions by them."""
        rel, columns = part.rel, width(part.rel)
        extra = [key for key in keys if field_of(key) is None]
        if extra or not columns:
            own = [substrait.field(index) for index in range(columns)]
            rel = substrait.project(rel, [*own, *extra] or [{"literal": {"i8": 0}}])
        after = iter(range(columns, columns + len(extra)))
        places = tuple(next(after) if (at := field_of(key)) is None else at for key in keys)
        schema = self.dialect.schema(rel)
        if not all(can_hash(schema.field(at).type) for at in places):
            places = ()
        output = self.runs.run(Stage(rel, part.where, schema, places, in_order, part.bytes), self)
        output.columns, output.keys, output.in_order = columns, places, in_order
        return output

    def rows(self, scan: Scan) -> Output:
        """Run the stage that has the rows of `scan` as they are, of whatever types."""
        rel = {"read": {"namedTable": {"names": [self.scanned(scan)]}}}
        output = self.runs.run(Stage(rel, Where.NODES, scan.schema, (), in_order=True, bytes=scan.bytes), self)
        output.columns, output.in_order, output.move = len(scan.columns), True, "gather"
        return output

    def gather(self, part: Part) -> Part:
        """Return `part` in one place."""
        if part.where is Where.ONE:
            return part
        return self._whole(self.stage(part, in_order=part.in_order))

    def scanned(self, scan: Scan) -> str:
        """Return the name that `scan` has in the plan of its stage."""
        name = f"t{len(self.scans)}"
        self.scans[name] = scan
        return name

    # -- one a kind of relation ---------------------------------------------------------------------------------------

    def _place_read(self, rel: Rel) -> Part:
        body = rel["read"]
        if "virtualTable" in body:
            return Part(rel, Where.ONE, 1000)
        if set(body) - {"baseSchema", "projection", "namedTable", "common"}:
            raise CannotCut("it has a read with a filter of its own")
        source, chunks = self._tables[body["namedTable"]["names"][-1]]
        selected = body["projection"]["select"].get("structItems", ()) if "projection" in body else None
        indexes = range(len(source.schema)) if selected is None else [int(item.get("field", 0)) for item in selected]
        scan = Scan(source, tuple(indexes) or (0,), tuple(chunks))  # of rows without columns there would be none
        name = self.scanned(scan)
        read = self.dialect.table(name, scan.schema, len(tuple(indexes)))
        return Part(read, Where.NODES, scan.bytes, in_order=True)

    def _place_filter(self, rel: Rel) -> Part:
        part = self.place(rel["filter"]["input"])
        return replace(part, rel=with_inputs(rel, [part.rel]), bytes=part.bytes // _FILTERED)

    def _place_project(self, rel: Rel) -> Part:
        part = self.place(rel["project"]["input"])
        windows = [each for each in rel["project"].get("expressions", ()) if "windowFunction" in str(each)]
        if windows and part.where is not Where.ONE:
            part = self._by_window(part, windows)
        over = with_inputs(rel, [part.rel])
        before = max(1, width(part.rel))
        size = part.bytes * max(1, width(over)) // before
        in_order = part.in_order and not windows
        return Part(over, part.where, size, _carried(over, part.together), in_order)

    def _by_window(self, part: Part, windows: Sequence[Expression]) -> Part:
        """Bring together the rows that all of `windows` look at together."""
        if not all(set(each) == {"windowFunction"} for each in windows):
            return self.gather(part)
        first, *others = ([*each["windowFunction"].get("partitions", ())] for each in windows)
        keys = [key for key in first if all(key in other for other in others)]
        return self._together(part, keys)

    def _place_aggregate(self, rel: Rel) -> Part:
        part = self.place(rel["aggregate"]["input"])
        over = with_inputs(rel, [part.rel])
        groups = rel["aggregate"].get("groupingExpressions", [])
        if part.where is Where.ONE:
            return Part(over, Where.ONE, part.bytes // _GROUPED)
        if len(rel["aggregate"].get("groupings", ())) > 1:
            gathered = self.gather(part)
            return Part(with_inputs(rel, [gathered.rel]), Where.ONE, part.bytes // _GROUPED)
        if not _are_together(part, groups):
            in_two_steps = split(over)
            if in_two_steps is not None and (merged := self._merged(part, over, in_two_steps)) is not None:
                return merged
            part = self._together(part, groups)
            over = with_inputs(rel, [part.rel])
        together = tuple(
            frozenset(_place_of(groups, at) for at in each) for each in part.together if _has(groups, each)
        )
        return Part(over, part.where, part.bytes // _GROUPED, together)

    def _merged(self, part: Part, rel: Rel, in_two_steps: SplitAggregate) -> Part | None:
        """Return the aggregate `rel` over `part` in two steps; None where there are none for its types."""
        count = in_two_steps.group_count
        types = self.dialect.schema(rel).types
        if not in_two_steps.can_merge(types):
            return None
        partial = Part(
            in_two_steps.partial, part.where, part.bytes // _GROUPED if count else 100 * self.runs.node_count
        )
        groups = [substrait.field(index) for index in range(count)]
        read = self._one_or_partitions(self.stage(partial, groups))
        name = next(iter(substrait.reads(read.rel)))
        merged = self.dialect.relation(in_two_steps.merge(self.dialect.session.table(name), types))
        together = (frozenset(range(count)),) if read.where is Where.PARTITIONS else ()
        return Part(merged, read.where, read.bytes, together)

    def _place_join(self, rel: Rel) -> Part:
        left, right = (self.place(each) for each in inputs_of(rel))
        if rel.get("join", {}).get("nullAware"):
            sent = self._broadcast(self.stage(right))
            return Part(not_in(rel, left.rel, sent.rel), left.where, left.bytes, left.together)
        join = Join.of(rel)
        if left.where is Where.ONE and right.where is Where.ONE:
            return self._joined(rel, left, right)
        if right.where is Where.ONE and join.may_go_to_all(left=False):
            return self._joined(rel, left, self._broadcast(self.stage(right)))
        if left.where is Where.ONE and join.may_go_to_all(left=True):
            return self._joined(rel, self._broadcast(self.stage(left)), right)
        if not join.left_keys:
            return self._join_without_keys(rel, join, left, right)
        return self._join_by_keys(rel, join, left, right)

    _place_cross = _place_join

    def _join_without_keys(self, rel: Rel, join: Join, left: Part, right: Part) -> Part:
        sides = [each for each in (True, False) if join.may_go_to_all(left=each)]
        if not sides or Where.ONE in (left.where, right.where):
            return self._joined(rel, self.gather(left), self.gather(right))
        if min(sides, key=lambda is_left: (left if is_left else right).bytes):
            return self._joined(rel, self._broadcast(self.stage(left)), right)
        return self._joined(rel, left, self._broadcast(self.stage(right)))

    def _join_by_keys(self, rel: Rel, join: Join, left: Part, right: Part) -> Part:
        """Join by broadcast or exchange, as moves less: the smaller side that may is run first, to know its size."""
        sides = [each for each in (True, False) if join.may_go_to_all(left=each)]
        is_left = min(sides, key=lambda is_left: (left if is_left else right).bytes) if sides else True
        small, large = (left, right) if is_left else (right, left)
        small_keys, large_keys = (join.left_keys, join.right_keys)[:: 1 if is_left else -1]
        first = self.stage(small, small_keys)
        if sides and small.where is not Where.ONE and self._is_cheaper_to_all(first.bytes, large.bytes):
            sent = self._broadcast(first)
            return self._joined(rel, sent, large) if is_left else self._joined(rel, large, sent)
        second = self.stage(large, large_keys)
        types = [[each.schema.field(at).type for at in each.keys] for each in (first, second)]
        if types[0] != types[1]:
            raise CannotCut(f"the two sides of a join have keys of types {types[0]} and {types[1]}")
        if not first.keys:
            pair = self._whole(first), self._whole(second)
            return self._joined(rel, *(pair if is_left else pair[::-1]))
        if join.may_go_to_all(left=not is_left) and self._is_cheaper_to_all(second.bytes, first.bytes):
            pair = self._kept(first), self._broadcast(second)  # the large one has turned out to be the smaller
            return self._joined(rel, *(pair if is_left else pair[::-1]))
        pair = self._partition(first), self._partition(second)
        joined = self._joined(rel, *(pair if is_left else pair[::-1]))
        return replace(joined, together=join.together(width(left.rel)))

    def _is_cheaper_to_all(self, small: int, large: int) -> bool:
        nodes = self.runs.node_count
        if small > self.runs.memory_bytes // MEMORY_SHARE:
            return False
        return nodes == 1 or small * nodes <= (small + large) * (nodes - 1) / nodes

    def _joined(self, rel: Rel, left: Part, right: Part) -> Part:
        """Return the join of two parts of which both are in one place, or partitions, or one is read by all."""
        over = with_inputs(rel, [left.rel, right.rel])
        where = left.where if left.where is not Where.ONE else right.where
        shift = width(left.rel) if width(over) == width(left.rel) + width(right.rel) else 0
        together = left.together + tuple(frozenset(at + shift for at in each) for each in right.together)
        return Part(over, where, max(left.bytes, right.bytes), together)

    def _place_sort(self, rel: Rel) -> Part:
        part = self.gather(self.place(rel["sort"]["input"]))
        return Part(with_inputs(rel, [part.rel]), Where.ONE, part.bytes)

    def _place_fetch(self, rel: Rel) -> Part:
        """Each place gives as many rows as may be needed, and of these the ones that are."""
        body = rel["fetch"]
        below = body["input"]
        sort = substrait.map_subqueries(below, self._scalar) if kind_of(below)[0] == "sort" else None
        part = self.place(sort["sort"]["input"] if sort else below)
        limit = None if sort and is_volatile(sort["sort"]["sorts"]) else _rows_needed(body)
        if part.where is not Where.ONE and limit is not None:
            first = with_inputs(sort, [part.rel]) if sort else part.rel
            count = {"literal": {"i64": str(limit)}}
            first = {"fetch": {"common": body.get("common", {}), "input": first, "countExpr": count}}
            part = Part(first, part.where, min(part.bytes, limit * 1000), in_order=part.in_order and not sort)
        part = self.gather(part)
        over = with_inputs(sort, [part.rel]) if sort else part.rel
        return Part(with_inputs(rel, [over]), Where.ONE, part.bytes)

    def _place_set(self, rel: Rel) -> Part:
        if rel["set"].get("op") != "SET_OP_UNION_ALL":
            raise CannotCut(f"it has a {rel['set'].get('op')}")
        parts = [self.place(each) for each in rel["set"]["inputs"]]
        where = parts[0].where
        if any(part.where is not where for part in parts):
            where = Where.PARTITIONS
            parts = [part if part.where is where else self._kept(self.stage(part)) for part in parts]
        return Part(with_inputs(rel, [part.rel for part in parts]), where, sum(part.bytes for part in parts))

    # -- moves --------------------------------------------------------------------------------------------------------

    def _scalar(self, rel: Rel) -> Rel:
        """Return the relation that reads the answer of the subquery `rel`, wherever it is asked for."""
        output = self.stage(self.place(rel))
        output.is_scalar = True
        return self._broadcast(output).rel

    def _together(self, part: Part, keys: Sequence[Expression]) -> Part:
        """Return `part` with rows of equal `keys` in one partition, or all in one place."""
        if _are_together(part, keys):
            return part
        if not keys or any(map(is_volatile, keys)):  # a row has one value where it is sent to, another where it is used
            return self.gather(part)
        read = self._one_or_partitions(self.stage(part, keys))
        places = [field_of(key) for key in keys]
        known = read.where is Where.PARTITIONS and None not in places
        return replace(read, together=(frozenset(at for at in places if at is not None),) if known else ())

    def _one_or_partitions(self, output: Output) -> Part:
        if not output.keys or output.bytes <= self.runs.gather_bytes_max:
            return self._whole(output)
        return self._partition(output)

    def _whole(self, output: Output) -> Part:
        return Part(self._read(output, "gather"), Where.ONE, output.bytes)

    def _broadcast(self, output: Output) -> Part:
        return Part(self._read(output, "broadcast"), Where.ONE, output.bytes)

    def _kept(self, output: Output) -> Part:
        """Return what a stage has made as partitions that are where it ran."""
        return Part(self._read(output, "stay"), Where.PARTITIONS, output.bytes)

    def _partition(self, output: Output) -> Part:
        return Part(self._read(output, "exchange"), Where.PARTITIONS, output.bytes)

    def _read(self, output: Output, move: str) -> Rel:
        output.move = move
        name = f"in{len(self.inputs)}"
        self.inputs[name] = output
        return self.dialect.table(name, output.schema, output.columns)


def _are_together(part: Part, keys: Sequence[Expression]) -> bool:
    return part.where is Where.PARTITIONS and any(_has(keys, each) for each in part.together)


def _has(keys: Sequence[Expression], columns: frozenset[int]) -> bool:
    return columns <= {field_of(key) for key in keys}


def _place_of(keys: Sequence[Expression], column: int) -> int:
    return [field_of(key) for key in keys].index(column)


def _carried(project: Rel, together: tuple[frozenset[int], ...]) -> tuple[frozenset[int], ...]:
    """Return the sets of columns `together` as they are after `project`, those of which all are still there."""
    body = project["project"]
    before = width(body["input"])
    every: list[int | None] = [*range(before), *(field_of(each) for each in body.get("expressions", ()))]
    emit: dict[str, Any] | None = body.get("common", {}).get("emit")
    shown = every if emit is None else [every[int(at)] for at in emit.get("outputMapping", ())]
    return tuple(frozenset(shown.index(at) for at in each) for each in together if each <= set(shown))


def _rows_needed(fetch: dict[str, Any]) -> int | None:
    """Return how many rows a fetch looks at; None for all."""
    total = 0
    for name in ("offset", "count"):
        value = fetch.get(name)
        if f"{name}Expr" in fetch:
            value = fetch[f"{name}Expr"].get("literal", {}).get("i64")
            if value is None:
                return None
        if name == "count" and (value is None or int(value) < 0):
            return None
        total += int(value or 0)
    return total
