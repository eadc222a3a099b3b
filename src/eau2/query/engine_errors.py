"""The engine's errors, made readable and typed."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from eau2.errors import DiskFull, Eau2Error, QueryError, QueryOutOfMemory, UnknownColumn, UnknownTable
from eau2.query.placeholders import code

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from datafusion import Expr

TEXT_LENGTH_MAX = 600
NAMES_SHOWN_MAX = 20
OPERATORS_MAX = 2000  # one after the other: each nests the plan deeper, and at 6000 the engine overflows its stack
RETRIED_MAX = 12  # 10 ms
_RETRIES = dict.fromkeys(("cast", "try_cast", "safe_cast", "array", "substring", "overlay", "ceil", "floor", "not"), 1)
_RETRIES |= {"position": 2, "convert": 1, "extract": 1, "trim": 1}
_RETRIED = re.compile(r"\b(?:" + "|".join(_RETRIES) + r")\b", re.IGNORECASE)
_SHALLOWER = "use `in (...)`, or put the values as a frame and join with it"
_NO_TABLE = re.compile(r"table '(?:datafusion\.)?(?:public\.)?(.*?)' not found", re.DOTALL)
_NO_COLUMN = re.compile(r"No field named (.+?)\.(?= Did you mean|\s|$)", re.DOTALL)
_VALID = re.compile(r"Valid fields are (.+?)\.?\s*$", re.DOTALL)
_LABELS = (
    "DataFusion error: ",
    "External error: ",
    "Error during planning: ",
    "Schema error: ",
    "This feature is not implemented: ",
    "Execution error: ",
    "Arrow error: ",
    "Internal error: ",
    "Invalid argument error: ",
)
_PARSER = re.compile(r'SQL error: ParserError\("(.*)"\)', re.DOTALL)
_LITERAL = re.compile(r"'[^']*'|\"[^\"]*\"")
_CHAINING = frozenset({"is", "in", "like", "ilike", "similar", "between", "at", "collate", "not"})
_PREFIX_WEIGHT = 8  # of `interval`, of which the parser overflows its stack at 700
_WORD = re.compile(r"\b(?:and|or|union|intersect|except|join)\b", re.IGNORECASE)
_NO_QUERY = re.compile(r"\b(?:DML|DDL|Statement) not supported|Unsupported SQL statement")
_BUG = re.compile(r"\.?\s*This issue was likely caused by a bug in DataFusion's code.*", re.DOTALL)


def check_query(query: str) -> None:
    """Raise QueryError for what is no text, and for what would end the process: the engine's parser and planner are
    recursive, and do not notice the end of their stack."""
    if not isinstance(query, str):
        raise QueryError(f"a query is text, not {type(query).__name__}", hint="frame.filter() takes expressions")
    if _deepest(query) > RETRIED_MAX:
        raise QueryError(
            f"the query nests over {RETRIED_MAX} casts, arrays and the like",
            hint="compute the inner ones in a subquery, or a frame of its own",
        )
    if len(query) < 2 * OPERATORS_MAX:
        return
    plain = _LITERAL.sub("", query)
    if max(_longest(query), len(_WORD.findall(plain))) > OPERATORS_MAX:
        raise QueryError(
            f"the query has over {OPERATORS_MAX:,} operators in a row",
            hint=_SHALLOWER,
        )


def _deepest(query: str) -> int:
    """Return how often the engine's parser may read the innermost part of `query` again, as a power of two: where what
    it tries first does not come out, it tries something else."""
    if len(_RETRIED.findall(query)) <= RETRIED_MAX // max(_RETRIES.values()):
        return 0
    levels: list[int] = []  # of each bracket that is open
    deepest, before = 0, ""
    for token in code(query):
        text = token[0].lower()
        if text in ("(", "["):
            levels.append(_RETRIES.get(before, 0))
            deepest = max(deepest, sum(levels))
        elif text in (")", "]") and levels:
            levels.pop()
        before = text
    return deepest


def _longest(query: str) -> int:
    """Return how many operators nest in the deepest expression of `query`: commas part expressions, but not those
    around their brackets."""
    levels, total, longest = [0], 0, 0  # of operators, in each bracket that is open
    for token in code(query):
        text = token[0].lower()
        weight = 1 if token["operator"] or text == "[" or text in _CHAINING else 0
        weight = _PREFIX_WEIGHT if text == "interval" else weight
        levels[-1] += weight
        total += weight
        longest = max(longest, total)
        if text in ("(", "[", "{"):
            levels.append(0)
        elif text == ",":
            total -= levels[-1]
            levels[-1] = 0
        elif text in (")", "]", "}") and len(levels) > 1:
            total -= levels.pop()
    return longest


def check_expression(expression: Expr) -> None:
    """Raise QueryError for what nests so deep that it would end the process, as `check_query` does.

    1 us an operand, and 4 ms where 300 are within one another: the engine copies what it takes apart.
    """
    level = [expression]
    for _ in range(OPERATORS_MAX):
        level = [operand for each in level for operand in _operands(each)]
        if not level:
            return
    raise QueryError(f"the expression has over {OPERATORS_MAX:,} operators within one another", hint=_SHALLOWER)


def _operands(expression: Expr) -> list[Any]:
    if expression.variant_name() in ("Column", "Literal"):  # their own operands
        return []
    try:
        return list(expression.rex_call_operands())
    except Exception:  # the engine raises a bare one for the few that it cannot take apart
        return []


def is_exhausted(error: BaseException) -> bool:
    """Whether the engine says that its memory pool is used up."""
    return "Resources exhausted" in str(error)


def interruption(error: BaseException) -> BaseException | None:
    """Return the Ctrl-C, or the end of the process, that came just when the engine returned: Python then says that what
    it returned is a SystemError, caused by that."""
    cause = error.__cause__ if isinstance(error, SystemError) else None
    return cause if isinstance(cause, (KeyboardInterrupt, SystemExit)) else None


def typed(error: BaseException, *, names: Callable[[], Sequence[str]] | None = None) -> Eau2Error:
    """Return the error of eau2 that says what `error`, of the engine, says. `names`: the tables there are."""
    if isinstance(error, Eau2Error):
        return error
    text = str(error)
    if is_exhausted(error):
        return QueryOutOfMemory(
            f"the query needs more memory than it may have: {readable(text)}",
            hint="open the store with a larger memory_bytes=, or select fewer columns and rows",
        )
    if "No space left on device" in text or "os error 28" in text:
        return DiskFull(f"no disk space left to spill to: {readable(text)}", hint="free space, or raise memory_bytes=")
    if found := _NO_TABLE.search(text):
        return _unknown_table(found[1], names() if names else ())
    if found := _NO_COLUMN.search(text):
        return _unknown_column(found[1], text)
    if _NO_QUERY.search(text):
        return QueryError(
            f"not a query: {readable(text)}", hint="queries only read; put() writes, and clients of Flight SQL ingest"
        )
    return QueryError(readable(text) or f"the engine failed: {type(error).__name__}")


def readable(text: str) -> str:
    """Return the engine's message without its labels, on one line.

    >>> readable('DataFusion error: Arrow error: Divide by zero error')
    'Divide by zero error'
    """
    if found := _PARSER.search(text):
        text = "SQL: " + found[1]
    text = _BUG.sub("", text)
    again = True
    while again:
        again = False
        for label in _LABELS:
            if text.startswith(label):
                text, again = text[len(label) :], True
    text = " ".join(text.replace("datafusion.public.", "").split())
    return text if len(text) <= TEXT_LENGTH_MAX else text[:TEXT_LENGTH_MAX] + "..."


def _unknown_table(name: str, names: Sequence[str]) -> UnknownTable:
    if name in names:
        hint = f'names with dots are quoted: "{name}"'
    elif near := near_names(name, names):
        hint = "did you mean " + " or ".join(quoted_if_needed(each) for each in near) + "?"
    elif names:
        hint = "the store has " + ", ".join(quoted_if_needed(each) for each in names[:NAMES_SHOWN_MAX])
    else:
        hint = "the store has no frames"
    return UnknownTable(f"no frame {name!r}", hint=hint)


def _unknown_column(name: str, text: str) -> UnknownColumn:
    plain = unquoted(name)
    valid = _VALID.search(text)
    columns = list(dict.fromkeys(unquoted(each) for each in _split(valid[1]))) if valid else []
    return unknown_column(plain, columns)


def unknown_column(name: str, columns: Sequence[str]) -> UnknownColumn:
    """Return the error for a column that is none of `columns`, with those near it."""
    near = near_names(name, columns)
    hint = "did you mean " + " or ".join(quoted_if_needed(each) for each in near) + "?" if near else ""
    shown = ", ".join(columns[:NAMES_SHOWN_MAX]) + (", ..." if len(columns) > NAMES_SHOWN_MAX else "")
    return UnknownColumn(f"no column {name!r}" + (f"; there are {shown}" if columns else ""), hint=hint)


def near_names(name: str, names: Sequence[str]) -> list[str]:
    """Return up to three of `names` much like `name`, case aside."""
    folded: dict[str, str] = {}
    for each in names:
        folded.setdefault(each.lower(), each)
    return [folded[each] for each in get_close_matches(name.lower(), list(folded), n=3)]


def quoted_if_needed(name: str) -> str:
    """Return `name` as one writes it in a query.

    >>> quoted_if_needed("fare"), quoted_if_needed("a/b")
    ('fare', '"a/b"')
    """
    plain = re.fullmatch(r"[a-z_][a-z0-9_]*", name) is not None
    return name if plain else '"' + name.replace('"', '""') + '"'


def unquoted(name: str) -> str:
    """Return the last part of a qualified name, as it is without quotes.

    >>> unquoted('t."Fare"'), unquoted("t.k1")
    ('Fare', 'k1')
    """
    if name.endswith('"'):
        start = re.search(r'(?:^|\.)"((?:[^"]|"")*)"$', name)
        return start[1].replace('""', '"') if start else name
    return name.rpartition(".")[2]


def _split(text: str) -> list[str]:
    """Split a list of names at the commas that are not in quotes."""
    return [part.strip() for part in re.findall(r'(?:"(?:[^"]|"")*"|[^,"])+', text)]
