"""Random queries over random rows: a seed is a query. What DuckDB does not define alike is marked."""

from __future__ import annotations

import datetime as dt
import random
from decimal import Decimal
from typing import Any

import pyarrow as pa

SIZES = {"a": 40, "b": 25, "c": 8, "empty": 0}
SCHEMA = pa.schema(
    {
        "n": pa.int64(),  # of each row its own
        "i": pa.int64(),
        "j": pa.int32(),
        "u": pa.uint8(),
        "s": pa.string(),
        "x": pa.large_string(),
        "v": pa.string_view(),
        "e": pa.dictionary(pa.int32(), pa.string()),
        "f": pa.float64(),
        "g": pa.float32(),
        "m": pa.decimal128(9, 2),
        "w": pa.decimal128(20, 4),
        "d": pa.date32(),
        "t": pa.timestamp("us"),
        "ms": pa.timestamp("ms"),
        "z": pa.timestamp("us", "UTC"),
        "o": pa.bool_(),
        "y": pa.binary(),
    }
)
WORDS = ["", "a", "ab", "b", "é", "zz"]
DAYS = [dt.date(2026, 1, day) for day in (1, 2, 3, 28)]
NUMBERS, TEXTS, TIMES = ("i", "j", "u", "m", "w"), ("s", "x", "v", "e"), ("d", "t", "ms")
KEYS = (*NUMBERS, *TEXTS, *TIMES, "f", "g", "z", "o", "y")
_HERE = "/* not as in DuckDB */"
OPERATORS = ("=", "<>", "<", "<=", ">", ">=")


def rows(name: str) -> pa.Table:
    """The rows of a table: many values are equal, and one in six is missing."""
    chance = random.Random(name)
    made = [{**{key: _value(chance, key) for key in SCHEMA.names}, "n": number} for number in range(SIZES[name])]
    return pa.Table.from_pylist(made, SCHEMA)


def _value(chance: random.Random, column: str) -> Any:
    if chance.random() < 1 / 6:
        return None
    if column in TEXTS:
        return chance.choice(WORDS)
    if column == "y":
        return chance.choice(WORDS).encode()
    if column in ("f", "g"):  # the engine's least and most of what has NaN depend on the order of the rows
        return chance.choice([-1.5, 0.0, 0.5, 2.0, 3.25, float("nan") if column == "g" else 4.0])
    if column in ("m", "w"):
        return Decimal(chance.randrange(-2, 6))
    if column == "o":
        return chance.random() < 0.5
    if column == "d":
        return chance.choice(DAYS)
    if column in ("t", "ms", "z"):
        zone = dt.UTC if column == "z" else None
        return dt.datetime.combine(chance.choice(DAYS), dt.time(chance.choice([0, 12])), zone)
    return chance.randrange(0, 6)


class RandomQuery:
    """The query of a seed. `for_duckdb`: whether DuckDB means the same by it. `in_order`: whether its rows have one."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._aliases = 0
        self.in_order = False
        text = self._whole()
        # Two faults of the engine: in a condition with OR a membership that is not known is none; and in a join that
        # has both, "=" means "is not distinct from".
        is_wrong = (" or " in text and " in (select" in text) or " is not distinct from " in text
        self.for_duckdb = _HERE not in text and not is_wrong
        self.text = text.replace(_HERE, "")

    # -- the shapes of queries ----------------------------------------------------------------------------------------

    def _whole(self) -> str:
        shape = self._pick("rows", "rows", "groups", "groups", "groups", "total", "windows", "set", "top", "nested")
        if shape == "set":
            columns = self._some(("i", "s", "d", "m", "o"), 1, 3)
            word = self._pick("union", "union all", "intersect", "except")
            return f" {word} ".join(f"(select {', '.join(columns)} from {self._where_one()})" for _ in range(2))
        if shape == "top":
            self.in_order = True
            name = self._alias()
            order = f"{name}.{self._pick('i', 's', 'd')} {self._order()}, {name}.n"
            limit = f"limit {self._pick(0, 1, 5, 30)} offset {self._pick(0, 0, 3)}"
            columns = f"{name}.n, {name}.{self._pick(*KEYS)}"
            return f"select {columns} from {self._table()} {name} {self._where([name])} order by {order} {limit}"
        if shape == "nested":
            return self._nested()
        return getattr(self, f"_{shape}")()

    def _rows(self) -> str:
        joined, names = self._joined()
        columns = [f"{self._pick(*names)}.{self._pick('n', *KEYS)} as c{at}" for at in range(self._pick(1, 2, 4))]
        columns += [f"{self._expression(names)} as x{at}" for at in range(self._pick(0, 1, 2))]
        distinct = self._pick("", "", "distinct ")
        return f"select {distinct}{', '.join(columns)} from {joined} {self._where(names)}"

    def _groups(self, *first: str) -> str:
        joined, names = self._joined()
        keys = [f"{self._pick(*names)}.{self._pick(*KEYS)}" for _ in range(self._pick(1, 1, 2))]
        if self._pick(0, 0, 0, 1):
            keys[0] = f"{self._pick(*names)}.i % 2"
        columns = [f"{key} as k{at}" for at, key in enumerate(keys)]
        columns += [f"{each} as a{at}" for at, each in enumerate([*first, *self._aggregates(names)])]
        having = self._pick("", "", f" having count(*) {self._pick('>', '<')} {self._pick(1, 2, 5)}")
        return f"select {', '.join(columns)} from {joined} {self._where(names)} group by {', '.join(keys)}{having}"

    def _total(self) -> str:
        joined, names = self._joined()
        columns = [f"{each} as a{at}" for at, each in enumerate(self._aggregates(names))]
        return f"select {', '.join(columns)} from {joined} {self._where(names)}"

    def _windows(self) -> str:
        name = self._alias()
        keys = [f"{name}.{each}" for each in self._some(KEYS, 0, 2)]
        by = f"partition by {', '.join(keys)} " if keys else ""
        functions = ("row_number()", "rank()", f"sum({name}.i)", f"count({name}.s)", f"lag({name}.j, 1)")
        functions += (f"first_value({name}.s)", f"min({name}.d)", f"max({name}.m)")
        frame = self._pick(
            "", "", "rows between 1 preceding and 1 following", "rows between unbounded preceding and current row"
        )
        columns = []
        for at in range(self._pick(1, 2)):
            function = self._pick(*functions)
            rest = "" if function.startswith(("row", "rank", "lag")) else frame
            columns.append(f"{function} over ({by}order by {name}.n {rest}) as w{at}")
        return f"select {name}.n, {', '.join(columns)} from {self._table()} {name} {self._where([name])}"

    def _nested(self) -> str:
        inner = self._groups("count(*)")
        shape = self._pick("count", "join", "groups")
        if shape == "count":
            return f"select count(*) as n, count(k0) as k, count(distinct k0) as d from ({inner}) q"
        if shape == "groups":
            return f"select a0, count(*) as n from ({inner}) q group by a0"
        return f"select t.n, q.a0 from {self._table()} t {self._pick('', 'left ')}join ({inner}) q on t.i = q.a0"

    # -- their parts --------------------------------------------------------------------------------------------------

    def _joined(self) -> tuple[str, list[str]]:
        names = [self._alias()]
        text = f"{self._table()} {names[0]}"
        for _ in range(self._pick(0, 0, 1, 1, 1, 2)):
            name = self._alias()
            kind = self._pick("join", "join", "left join", "right join", "full join", "cross join")
            if kind == "cross join":
                text += f" cross join c {name}"
            else:
                condition = self._meets(self._pick(*names), name)
                if kind != "full join" and self._pick(0, 0, 1):
                    condition += f" and {self._pick(*names)}.{self._pick('i', 'j')} {self._pick('<', '<>')} {name}.i"
                text += f" {kind} {self._table()} {name} on {condition}"
            names.append(name)
        return text, names

    def _meets(self, one: str, other: str) -> str:
        left, right = self._pair()
        word = self._pick("=", "=", "=", "=", "is not distinct from")
        more = f" and {one}.{(key := self._pick('s', 'j', 'd'))} = {other}.{key}" if self._pick(0, 0, 0, 1) else ""
        return f"({one}.{left} {word} {other}.{right}){more}"

    def _pair(self) -> tuple[str, str]:
        """Two columns that can be equal."""
        kind = self._pick(NUMBERS, TEXTS, TIMES, None, None)
        if kind is None:
            key = self._pick("n", *KEYS)
            return key, key
        return self._pick(*kind), self._pick(*kind)

    def _where(self, names: list[str]) -> str:
        count = self._pick(0, 1, 1, 2)
        return (
            "where " + self._pick(" and ", " or ").join(self._condition(names) for _ in range(count)) if count else ""
        )

    def _where_one(self) -> str:
        name = self._alias()
        return f"{self._table()} {name} {self._where([name])}"

    def _condition(self, names: list[str]) -> str:
        name = self._pick(*names)
        kind = self._pick("compare", "compare", "null", "in", "like", "not", "exists", "subquery", "scalar", "columns")
        if kind == "not":
            return f"not ({self._condition(names)})"
        if kind == "null":
            return f"{name}.{self._pick(*KEYS)} is {self._pick('', 'not ')}null"
        if kind == "in":
            values = ", ".join(str(self._pick(0, 1, 2, 3, "null")) for _ in range(self._pick(1, 2, 5)))
            return f"{name}.{self._pick('i', 'j')} {self._pick('', 'not ')}in ({values})"
        if kind == "like":
            return f"{name}.{self._pick('s', 'x')} {self._pick('', 'not ')}like '{self._pick('a%', '%b', '_', '%')}'"
        if kind == "columns":
            left, right = self._pair()
            return f"{name}.{left} {self._pick(*OPERATORS)} {self._pick(*names)}.{right}"
        if kind in ("exists", "subquery", "scalar"):
            return getattr(self, f"_{kind}")(name)
        column = self._pick("i", "j", "s", "d", "m", "f", "n")
        return f"{name}.{column} {self._pick(*OPERATORS)} {self._literal(column)}"

    def _exists(self, outer: str) -> str:
        name = self._alias()
        more = f" and {self._plain(name)}" if self._pick(0, 1) else ""
        inner = f"select 1 from {self._table()} {name} where {self._meets(name, outer)}{more}"
        return f"{self._pick('', 'not ')}exists ({inner})"

    def _subquery(self, outer: str) -> str:
        name = self._alias()
        left, right = self._pair()
        more = f" where {self._plain(name)}" if self._pick(0, 1) else ""
        return f"{outer}.{left} {self._pick('', 'not ')}in (select {name}.{right} from {self._table()} {name}{more})"

    def _scalar(self, outer: str) -> str:
        name, column = self._alias(), self._pick("i", "s", "d", "m")
        related = self._pick("", f" where {name}.j = {outer}.j")
        inner = f"select {self._pick('min', 'max')}({name}.{column}) from {self._table()} {name}{related}"
        return f"{outer}.{column} {self._pick(*OPERATORS)} ({inner})"

    def _plain(self, name: str) -> str:
        column = self._pick("i", "j", "s", "d")
        return self._pick(
            f"{name}.{column} is not null", f"{name}.{column} {self._pick('<', '=', '>')} {self._literal(column)}"
        )

    def _aggregates(self, names: list[str]) -> list[str]:
        found = []
        for _ in range(self._pick(1, 2, 3)):
            name = self._pick(*names)
            found.append(
                self._pick(
                    "count(*)",
                    f"count({name}.{self._pick(*KEYS)})",
                    f"sum({name}.{self._pick('i', 'j', 'u', 'm')})",
                    f"avg({name}.{self._pick('i', 'j', 'f')})",
                    f"{self._pick('min', 'max')}({name}.{self._pick('i', 's', 'f', 'd', 't', 'm', 'x')})",
                    f"count(distinct {name}.{self._pick('i', 's', 'd', 'm', 'e')})",
                    f"sum({name}.i) filter (where {name}.j > 2)",
                    f"bool_or({name}.o)",
                    self._only_here(f"avg({name}.m)"),
                    self._only_here(f"median({name}.{self._pick('i', 'f')})"),
                    self._only_here(f"stddev({name}.i)"),
                    f"sum(distinct {name}.i)",
                )
            )
        return found

    def _only_here(self, text: str) -> str:
        """`text`, which DuckDB answers in another type or with another rounding."""
        return _HERE + text

    def _expression(self, names: list[str]) -> str:
        name, other = self._pick(*names), self._pick(*names)
        return self._pick(
            f"{name}.i + {other}.j",
            f"coalesce({name}.s, {other}.x, 'none')",
            f"case when {name}.i > 2 then {name}.s when {other}.o then 'yes' end",
            f"{name}.s || {other}.s",
            f"{name}.i % 3",
            f"upper({name}.s)",
            f"cast({name}.i as double) / 2",
            f"nullif({name}.i, {other}.j)",
            f"cast({name}.j as varchar)",
            f"abs({name}.m)",
        )

    def _literal(self, column: str) -> str:
        if column in TEXTS:
            return f"'{self._pick(*WORDS)}'"
        if column == "d":
            return f"date '{self._pick(*DAYS)}'"
        return str(self._pick(0, 1, 2, 3, 4)) if column != "f" else str(self._pick(0.5, 2.0))

    def _table(self) -> str:
        return self._pick("a", "a", "b", "b", "c", "empty") if self._pick(0, 1) else self._pick("a", "b")

    def _alias(self) -> str:
        self._aliases += 1
        return f"t{self._aliases}"

    def _order(self) -> str:
        return f"{self._pick('asc', 'desc')} nulls {self._pick('first', 'last')}"

    def _some(self, values: tuple[str, ...], least: int, most: int) -> list[str]:
        return self._chance.sample(values, self._chance.randint(least, most))

    def _pick(self, *values: Any) -> Any:
        return self._chance.choice(values)
