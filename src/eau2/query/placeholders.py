"""Parameters of a query: what stands for them in its text, and the values they are given.

Values never become text: the engine puts them into the plan. All that is changed in a query is `?`, which becomes `$1`,
`$2` and so on, as the engine wants it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import pyarrow as pa

from eau2.errors import QueryError

Values = dict[str, pa.Scalar]  # by what stands behind the `$`

PARAMETERS_MAX = 10_000
_HINT = "store.sql('... where n > ? and s = ?', parameters=[1, 'a']), or $name and a dict"
# What the engine's parser takes as one: texts, names in quotes, comments, placeholders, words (that may have a `$`).
_TOKEN = re.compile(
    r"""[eE]'(?:[^'\\]|\\.|'')*+(?:'|\Z) | '(?:[^']|'')*+(?:'|\Z) | "(?:[^"]|"")*+(?:"|\Z) | `(?:[^`]|``)*+(?:`|\Z)
    | --[^\n]*+ | (?P<comment>/\*) | (?P<quote>\$\w*+\$) | \$(?P<name>\w++) | (?P<mark>\?)(?P<number>[0-9]*+)
    | (?P<word>[^\W\d][\w$@\#]*+) | (?P<bracket>[()\[\]{},]) | (?P<operator>(?:(?!--|/\*)[-+*/%|&^<>=!~:])+)""",
    re.VERBOSE | re.DOTALL,
)
_COMMENT = re.compile(r"/\*|\*/")


class Placeholders(NamedTuple):
    """A query as the engine takes it, and what its parameters are called: `1`, `2`, or names."""

    query: str
    names: tuple[str, ...]  # each once, as they come; numbers in their order, from 1, also those left out

    @property
    def numbered(self) -> bool:
        return not self.names or self.names[0].isdecimal()


def code(query: str) -> Iterator[re.Match[str]]:
    """Yield what `query` consists of, but texts, names in quotes and comments. Groups: `name` of a `$name`; `mark` of a
    `?`, and the `number` behind it; `word`; `operator`; `bracket`, also a comma."""
    at = 0
    while (token := _TOKEN.search(query, at)) is not None:
        at = token.end()
        if token["comment"]:
            at = _end_of_comment(query, at)
        elif token["quote"]:
            end = query.find(token["quote"], at)
            at = len(query) if end < 0 else end + len(token["quote"])
        elif token.lastgroup is not None:
            yield token


def placeholders(query: str) -> Placeholders:
    """Return the parameters of `query`. QueryError where `?`, `$1` and `$name` are mixed, or the numbers are too many.

    >>> placeholders("select '?', a from t where b = ? and c = ?")
    Placeholders(query="select '?', a from t where b = $1 and c = $2", names=('1', '2'))
    """
    parts: list[str] = []
    kept = marks = 0  # where what was not yet copied begins; how many `?` came
    found: dict[str, None] = {}
    for token in code(query):
        name = token["name"] or token["number"]
        if name:
            found[name] = None
        elif token["mark"]:
            marks += 1
            parts += [query[kept : token.start()], f"${marks}"]
            kept = token.end()
    numbers = [
        int(name) for name in found if name.isascii() and name.isdecimal() and len(name) <= len(str(PARAMETERS_MAX))
    ]
    if bool(marks) + bool(numbers) + (len(numbers) < len(found)) > 1:
        raise QueryError("the query mixes parameters by place, by number and by name", hint="write all as `?`, or `$1`")
    if max((marks, *numbers)) > PARAMETERS_MAX or 0 in numbers:
        raise QueryError(f"parameters are numbered from 1 to {PARAMETERS_MAX:,}")
    if marks or numbers:
        names = tuple(str(number) for number in range(1, max((marks, *numbers)) + 1))
        return Placeholders("".join([*parts, query[kept:]]), names)
    return Placeholders(query, tuple(found))


def bound(query: str, parameters: object) -> tuple[str, Values]:
    """Return `query` as the engine takes it, and the values of its parameters.

    parameters: a sequence for `?` and `$1`, a mapping for `$name`, None where there are none. QueryError when they are
    not those of the query, or a value is none of Arrow's.
    """
    if parameters is None and "$" not in query and "?" not in query:
        return query, {}
    text, names = found = placeholders(query)
    given = [] if parameters is None else parameters
    if isinstance(given, Mapping):
        if (found.numbered and names) or set(given) != set(names):
            raise QueryError(f"the query has {_listed(names)}, and values are given for {_listed(given)}", hint=_HINT)
        return text, {name: _scalar(name, value) for name, value in given.items()}
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        raise QueryError(f"parameters are a list or a dict, not {type(given).__name__}", hint=_HINT)
    if not found.numbered or len(given) != len(names):
        count = "a value is" if len(given) == 1 else f"{len(given)} values are"
        raise QueryError(f"the query has {_listed(names)}, and {count} given", hint=_HINT)
    return text, {name: _scalar(name, value) for name, value in zip(names, given, strict=True)}


def _end_of_comment(query: str, at: int) -> int:
    depth = 1  # comments nest
    for token in _COMMENT.finditer(query, at):
        depth += 1 if token[0] == "/*" else -1
        if depth == 0:
            return token.end()
    return len(query)


def _scalar(name: str, value: object) -> pa.Scalar:
    if not isinstance(value, pa.Scalar):
        try:
            value = pa.scalar(value)
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            raise QueryError(f"parameter ${name}: {str(error)[:200]}", hint="give a number, text, date, ...") from None
    while isinstance(value, (pa.DictionaryScalar, pa.RunEndEncodedScalar, pa.ExtensionScalar)):
        value = value.value  # the engine takes what lies under it only
    return value


def _listed(names: object) -> str:
    listed = [f"${name}" for name in names]  # type: ignore[attr-defined]  # an iterable
    shown = ", ".join(listed[:10]) + (", ..." if len(listed) > 10 else "")
    return "no parameters" if not listed else f"the parameter{'s' * (len(listed) > 1)} {shown}"
