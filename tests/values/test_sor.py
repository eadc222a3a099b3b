"""SoR text to columns, against a parser that is written from the rules alone, a character at a time."""

import math
from dataclasses import dataclass, field

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eau2.values.schema import SOR_TYPES, type_name
from eau2.values.sor import Sor, split_pieces
from eau2.values.sor_lines import COLUMNS_MAX
from eau2.values.sor_plain import plain_columns
from eau2.values.sor_straight import straighten

# -- the rules, slowly ------------------------------------------------------------------------------------------------

WIDTH = ["BOOL", "INT", "FLOAT", "STRING"]
DIGITS = set(b"0123456789")


class Bad(Exception):
    def __init__(self, column):
        super().__init__(column)
        self.column = column


def slow_line(line):
    """Return [(text, quoted) or None] for each field, or raise Bad(column)."""
    if line[-1:] == b"\r":
        line = line[:-1]
    fields, at, size = [], 0, len(line)

    def skip_blanks(at):
        while at < size and line[at] in (32, 9):
            at += 1
        return at

    while True:
        at = skip_blanks(at)
        if at == size:
            return fields
        if line[at] != ord("<"):
            raise Bad(len(fields) + 1)
        at = skip_blanks(at + 1)
        value, start = None, at
        if at < size and line[at] == ord('"'):
            at += 1
            while at < size and line[at] != ord('"'):
                at += 1
            if at == size:
                raise Bad(len(fields) + 1)
            at += 1
            value = (line[start + 1 : at - 1], True)
        else:
            while at < size and line[at] not in b' \t"<>':
                at += 1
            if at > start:
                value = (line[start:at], False)
        at = skip_blanks(at)
        if at == size or line[at] != ord(">"):
            raise Bad(len(fields) + 1)
        at += 1
        fields.append(value)


def unsigned(text):
    return text[1:] if text[:1] in (b"+", b"-") else text


def digits(text):
    return bool(text) and set(text) <= DIGITS


def slow_type(value):
    """BOOL INT FLOAT STRING, or EXP for what is FLOAT only in a FLOAT column."""
    text, quoted = value
    if quoted:
        return "STRING"
    if text in (b"0", b"1"):
        return "BOOL"
    body = unsigned(text)
    if digits(body):
        return "INT" if -(2**63) <= int(text) < 2**63 else "STRING"
    whole, point, part = body.partition(b".")
    if point and (whole or part) and (not whole or digits(whole)) and (not part or digits(part)):
        return "FLOAT"
    if body in (b"nan", b"inf"):
        return "EXP"
    for letter in (b"e", b"E"):
        mantissa, found, power = body.partition(letter)
        if found and digits(unsigned(power)):
            whole, point, part = mantissa.partition(b".")
            if (whole or part) and (not whole or digits(whole)) and (not part or digits(part)):
                return "EXP"
    return "STRING"


def valid(value):
    try:
        value[0].decode()
    except UnicodeDecodeError:
        return False
    return True


@dataclass
class Slow:
    types: list = field(default_factory=list)
    rows: list = field(default_factory=list)
    blank: int = 0
    bad: list = field(default_factory=list)  # (line, column)
    widened: list = field(default_factory=list)  # (column, old, new, line)


def slow_infer(lines):
    votes = []
    for line in lines[:500]:
        try:
            fields = slow_line(line)
        except Bad:
            continue
        if not all(valid(value) for value in fields if value):
            continue
        votes += [[] for _ in range(len(fields) - len(votes))]
        for column, value in zip(votes, fields, strict=False):
            if value:
                column.append(slow_type(value))
    types = []
    for column in votes:
        widest = max((WIDTH.index(vote) for vote in column if vote != "EXP"), default=0)
        types.append("STRING" if "EXP" in column and WIDTH[widest] != "FLOAT" else WIDTH[widest])
    return types


def slow_read(data, types=None, widen=True):
    lines = data.split(b"\n")
    if lines[-1] == b"":
        lines.pop()
    given_types = types is not None
    out = Slow(list(types) if given_types else slow_infer(lines))
    kept = []
    for number, line in enumerate(lines, 1):
        try:
            fields = slow_line(line)
            if len(fields) > len(out.types) and (given_types or not widen):
                raise Bad(len(out.types) + 1)
            needed = []
            for index, value in enumerate(fields):
                type_ = out.types[index] if index < len(out.types) else "BOOL"
                if value is None:
                    needed.append(type_)
                    continue
                found = slow_type(value)
                if found == "EXP":
                    found = "FLOAT" if type_ == "FLOAT" else "STRING"
                wider = max(found, type_, key=WIDTH.index)
                if wider == "STRING" and not valid(value):
                    raise Bad(index + 1)
                if wider != type_ and (given_types or not widen):
                    raise Bad(index + 1)
                needed.append(wider)
        except Bad as bad:
            out.bad.append((number, bad.column))
            continue
        if not fields:
            out.blank += 1
            continue
        for index, type_ in enumerate(needed):
            if index >= len(out.types):
                out.widened.append((f"c{index}", None, type_, number))
                out.types.append(type_)
            elif out.types[index] != type_:
                out.widened.append((f"c{index}", out.types[index], type_, number))
                out.types[index] = type_
        kept.append(fields)
    for fields in kept:
        values = [None if value is None else slow_value(value, out.types[i]) for i, value in enumerate(fields)]
        out.rows.append(values + [None] * (len(out.types) - len(values)))
    return out


def slow_value(value, type_):
    text = value[0]
    if type_ == "STRING":
        return text.decode()
    return {"BOOL": lambda t: t == b"1", "INT": int, "FLOAT": float}[type_](text)


# -- the reader, block by block ---------------------------------------------------------------------------------------


def fast_read(data, sor, block_bytes=1 << 20):
    """Read `data` as a load does: in blocks, again from the start when a column was widened."""
    schema = sor.infer(data)
    widened = []
    while True:
        out = Slow([type_name(type_) for type_ in schema.types], widened=widened)
        lines = 0
        for piece in split_pieces(data, block_bytes):
            block = sor.parse(piece, schema)
            widened += [(w.column, w.old and type_name(w.old), type_name(w.new), lines + w.line) for w in block.widened]
            if block.schema != schema:
                schema = block.schema
                break
            for batch in block.batches:
                columns = [column.to_pylist() for column in batch.columns]
                out.rows += [list(row) for row in zip(*columns, strict=True)]
            assert block.lines == block.rows + block.blank + len([r for r in block.rejects if not r.kept])
            out.blank += block.blank
            out.bad += [(lines + reject.line, reject.column) for reject in block.rejects]
            lines += block.lines
        else:
            return out


def same(left, right):
    """Equality in which NaN is NaN and -0.0 is not 0.0."""
    return repr(left) == repr(right)


WORDS = [
    b"0",
    b"1",
    b"2",
    b"-0",
    b"+1",
    b"007",
    b"12.5",
    b".5",
    b"5.",
    b"-.5",
    b"+1.5",
    b".",
    b"-",
    b"1e5",
    b"nan",
    b"inf",
]
WORDS += [
    b"-inf",
    b"NaN",
    b"INF",
    b"infinity",
    b"nan(1)",
    b"1e999",
    b"0x1F",
    b"-0x1f",
    b"+0x1",
    b"+-5",
    b"9223372036854775807",
]
WORDS += [b"9223372036854775808", b"-9223372036854775808", b"-9223372036854775809", b"99999999999999999999.5", b"1_0"]
WORDS += [
    b"true",
    b"a",
    "é€".encode(),
    b"\xff",
    b"a\x00b",
    b"\x00",
    b"a\rb",
    b"\r",
    b"\x0b5",
    b"a.b",
    b"'q'",
    b"1,2",
    b"1;2",
]
QUOTED = [
    b'""',
    b'"12"',
    b'"a b"',
    b'"a > b"',
    b'"a><b"',
    b'" "',
    b'"\t<"',
    b'">"',
    b'"\xff"',
    b'"a\rb"',
    b'"1"',
    b'"><"',
]
BROKEN = [b'"a', b'a"', b'a"b"', b'"a"b', b"two words", b"a<b", b"a>b", b'"a" "b"', b'"']
blanks = st.sampled_from([b"", b"", b"", b"", b" ", b"\t", b"  ", b" \t "])
plain_words = st.sampled_from([b"0", b"1", b"12", b"-3", b"4.5", b"+6", b"abc", b'"x"', b"", b"1e5"])
any_words = st.one_of(
    st.sampled_from([*WORDS, *QUOTED, b"", b""]), st.binary(max_size=4).filter(lambda b: b"\n" not in b)
)
line_ends = st.sampled_from([b"\n"] * 6 + [b"\r\n", b" \n", b"\r\r\n", b" \r \n"])


def spaced_field(word, around):
    return around[0] + b"<" + around[1] + word + around[2] + b">" + around[3]


def lines_of(words, around):
    fields = st.builds(spaced_field, words, st.tuples(around, around, around, around))
    return st.builds(lambda parts, end: b"".join(parts) + end, st.lists(fields, max_size=4), line_ends)


@st.composite
def tables(draw):
    """Regular lines, most of which the fast path takes: each column has its own few words."""
    width = draw(st.integers(1, 4))
    columns = [draw(st.lists(st.one_of(plain_words, any_words), min_size=1, max_size=3)) for _ in range(width)]
    around = draw(st.sampled_from([st.just(b""), blanks]))
    end = draw(st.sampled_from([b"\n", b"\n", b"\r\n"]))
    rows = draw(st.lists(st.tuples(*[st.sampled_from(column) for column in columns]), min_size=1, max_size=12))
    field_ = lambda word: spaced_field(word, draw(st.tuples(around, around, around, around)))  # noqa: E731
    return b"".join(b"".join(map(field_, row)) + end for row in rows)


garbage = st.one_of(st.binary(max_size=12), st.text('<>"\n\r\t 01.+-e\x00', max_size=30).map(str.encode))
broken = st.sampled_from(BROKEN).map(lambda word: b"<1><" + word + b">\n")
files = st.one_of(
    tables(),
    st.lists(
        st.one_of(lines_of(any_words, blanks), lines_of(plain_words, st.just(b"")), broken, garbage), max_size=10
    ).map(b"".join),
    st.tuples(tables(), st.one_of(tables(), broken, garbage), tables()).map(b"".join),
)


@pytest.mark.slow
@settings(max_examples=150)
@given(files, st.sampled_from([1 << 20, 40]))
@example(b"<0>\n" * 600 + b"<7><+007>\n<x><1.5>", 1 << 20)
@example(b'<1.5><0x1>\n<nan><"0x1">\n', 1 << 20)
@example(b"<2>\n<+0x1F>\n<+5>\n", 1 << 20)
@example(b"<1><a>\r\n<0><\xc3\xa9>\r\n", 1 << 20)
@example(b'<"a><b"><2>\n<1><2><3>\n', 1 << 20)
@example(b'<"a > < b">\n<1><2><3>\n', 1 << 20)
@example(b'<"a<b"><1>\n<"\x01>"><2>\n', 1 << 20)
@example(b'<a"><"b><1>\n<"a"b"><"c">\n<"a>b"><2>\n', 1 << 20)
@example(b"<1><2>\n<1>\r\n<1> x\nx <1>\n>1<\n<1> \n", 1 << 20)
def test_any_text_gives_the_rows_and_the_account_of_the_slow_parser(data, block_bytes):
    slow, fast = slow_read(data), fast_read(data, Sor(), block_bytes)
    assert fast.types == slow.types
    assert same(fast.rows, slow.rows)
    assert (fast.blank, fast.bad, fast.widened) == (slow.blank, slow.bad, slow.widened)


@settings(max_examples=70)
@given(files, st.lists(st.sampled_from(WIDTH), min_size=1, max_size=3))
@example(b"<0><9223372036854775808>\n", ["BOOL", "FLOAT"])
def test_with_given_types_what_does_not_fit_is_bad(data, types):
    fast = fast_read(data, Sor(types=tuple(SOR_TYPES[name] for name in types)), 40)
    slow = slow_read(data, types)
    assert same(fast.rows, slow.rows)
    assert (fast.blank, fast.bad, fast.widened) == (slow.blank, slow.bad, [])


@pytest.mark.slow
@settings(max_examples=40)
@given(files)
def test_without_widening_what_does_not_fit_is_bad(tail):
    data = b"<0><1>\n" * 500 + tail
    fast, slow = fast_read(data, Sor(widen=False), 1 << 12), slow_read(data, widen=False)
    assert same(fast.rows, slow.rows)
    assert (fast.types, fast.blank, fast.bad, fast.widened) == (slow.types, slow.blank, slow.bad, [])


@pytest.mark.slow
@settings(max_examples=40)
@given(files)
def test_widening_after_the_lines_that_decide_loses_no_text(tail):
    data = b"<0><+5><1.50><>\n" * 500 + tail
    fast, slow = fast_read(data, Sor(), 1 << 12), slow_read(data)
    assert same(fast.rows, slow.rows)
    assert (fast.types, fast.bad, fast.widened) == (slow.types, slow.bad, slow.widened)


# -- single rules -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "rows"),
    [
        (b"<1>", [[True]]),
        (b"< 1\t> <2> ", [[True, 2]]),
        (b"<>< >", [[None, None]]),
        (b'<"">', [[""]]),
        (b'<"12">', [["12"]]),
        (b'<"<a b> ">', [["<a b> "]]),
        (b"<a\x00b>", [["a\x00b"]]),
        (b"<true>", [["true"]]),
        (b"<+1><-0>", [[1, 0]]),
        (b"<5.><.5><+1.5>", [[5.0, 0.5, 1.5]]),
        (b"<1e5>", [["1e5"]]),
        (b"<99999999999999999999>", [["99999999999999999999"]]),
    ],
)
def test_one_line(line, rows):
    assert same(fast_read(line, Sor()).rows, rows)


@pytest.mark.parametrize(
    ("line", "column", "reason"),
    [
        (b"x", 1, "text outside < >"),
        (b"<1> x <2>", 2, "text outside < >"),
        (b"<1><2", 2, "unclosed <"),
        (b"<1><", 2, "unclosed <"),
        (b'<"a>', 1, "unclosed quote"),
        (b'<"a"b>', 1, "text after the closing quote"),
        (b'<"a"', 1, "unclosed <"),
        (b"<two words>", 1, "several words without quotes"),
        (b'<a"b>', 1, "quote inside a value"),
        (b"<a<b>", 1, "< inside a value without quotes"),
        (b"<1><\xff>", 2, "not valid UTF-8"),
        (b"<1>>", 2, "text outside < >"),
    ],
)
def test_a_bad_line_says_where_and_why(line, column, reason):
    block = Sor().parse(line + b"\n", pa.schema([("c0", pa.int64()), ("c1", pa.string())]))
    assert [(r.line, r.column, r.reason, r.raw) for r in block.rejects] == [(1, column, reason, line)]
    assert (block.lines, block.rows, block.blank, block.bad) == (1, 0, 0, 1)


def test_exponents_and_nan_are_floats_only_in_a_float_column():
    assert fast_read(b"<nan>\n<1.5>\n<1e5>\n", Sor()).types == ["FLOAT"]
    assert fast_read(b"<7>\n<1e5>\n", Sor()).types == ["STRING"]
    rows = fast_read(b"<1.5>\n<-inf>\n<nan>\n<>\n", Sor()).rows
    assert rows[:2] == [[1.5], [-math.inf]]
    assert math.isnan(rows[2][0])
    assert rows[3] == [None]


def test_a_cell_that_cannot_be_becomes_missing_when_asked():
    block = Sor(types=(pa.int64(), pa.string()), null=True).parse(
        b"<x><a>\n<1><\xff>\n<1><2><3>\n<2>\n", pa.schema([("c0", pa.int64()), ("c1", pa.string())])
    )
    assert [batch.to_pylist() for batch in block.batches] == [
        [{"c0": None, "c1": "a"}, {"c0": 1, "c1": None}, {"c0": 2, "c1": None}]
    ]
    assert [(r.line, r.column, r.kept) for r in block.rejects] == [(1, 1, True), (2, 2, True), (3, 3, False)]
    assert (block.lines, block.rows, block.bad) == (4, 3, 1)


def test_names_fix_the_width_and_leave_the_types_to_inference():
    out = fast_read(b"<1><2>\n<1><2><3>\n<x>\n", Sor(names=("a", "b")))
    assert (out.types, out.bad, len(out.rows)) == (["STRING", "INT"], [(2, 3)], 2)


@pytest.mark.parametrize("size", [1 << 20, 10 << 20])
def test_a_long_line_is_a_row(size):
    line = b"<1><" + b"x" * size + b">"
    assert len(fast_read(line, Sor()).rows[0][1]) == size


@pytest.mark.parametrize(
    "line", [b"<" + b" " * (4 << 20), b" " * (4 << 20) + b"x", b"<1>" + b"<\t" * (1 << 20), b'<"' * (1 << 20)]
)
def test_a_long_bad_line_takes_no_longer_than_a_good_one(line):
    assert len(fast_read(b"<1>\n" + line + b"\n<2>\n", Sor()).bad) == 1


def test_odd_lines_keep_their_place_among_plain_ones():
    odd = [b"", b"<7>", b'<8><"a > b"><>', b"<x <y>", b"<+9> <>"]
    data = b"".join(
        b"<%d><t%d>\n" % (n, n) + (odd[n // 100 % 5] + b"\n" if n % 100 == 0 else b"") for n in range(2, 5000)
    )
    slow, fast = slow_read(data), fast_read(data, Sor())
    assert same(fast.rows, slow.rows)
    assert (fast.types, fast.blank, fast.bad, fast.widened) == (slow.types, slow.blank, slow.bad, slow.widened)


def test_more_fields_than_the_limit_are_bad():
    out = fast_read(b"<1>" * (COLUMNS_MAX + 1), Sor())
    assert (out.types, out.bad) == ([], [(1, COLUMNS_MAX + 1)])


@pytest.mark.parametrize(
    "data",
    [
        b'<7><"a"><0><+1.5><>\n<-8><"bc"><1><-2.0><5>\n',
        b'<7> <"a b"> < 0> <+1.5 > <>\n<-8><"bc"><1><-2.0><5>\n',
        b"<7><a><0><1.5><>\r\n<+8><bc><1><2.0><5>\r\n",
        b"<7><0x1F><0><nan><>\n<8><\xc3\xa9><1><2.0><5>\n",
    ],
)
def test_ordinary_blocks_take_the_fast_path(data):
    types = [pa.int64(), pa.string(), pa.bool_(), pa.float64(), pa.int64()]
    columns = plain_columns(data, types)
    assert columns is not None
    slow = slow_read(data, ["INT", "STRING", "BOOL", "FLOAT", "INT"])
    assert same([list(row) for row in zip(*[column.to_pylist() for column in columns], strict=True)], slow.rows)


@pytest.mark.parametrize(
    ("data", "odd"),
    [
        (b'<7><"a > b < c">\n<8><"<>">\r\n', []),
        (b"<7><a>\n<8>\r\n <9> \n", []),
        (b'<7><a>\n\n<8><"b>\n<"<">\n<9><c><d>\n', [(1, b""), (2, b'<8><"b>'), (4, b"<9><c><d>")]),
    ],
)
def test_nearly_plain_blocks_take_the_fast_path_but_for_their_odd_lines(data, odd):
    types = [pa.string(), pa.string()]
    assert plain_columns(data, types) is None
    straight = straighten(data, 2)
    assert straight is not None
    assert straight.odd == odd
    columns = straight.shown(plain_columns(straight.text, types))
    others = [line for n, line in enumerate(data.split(b"\n")) if n not in dict(odd)]
    slow = slow_read(b"\n".join(others), ["STRING", "STRING"])
    assert same([list(row) for row in zip(*[column.to_pylist() for column in columns], strict=True)], slow.rows)
