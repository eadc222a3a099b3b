"""wordcount, linus and sor: programs over files, or over what is stored."""

import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group, RenderableType
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.exits import printable
from eau2.cli.screen import counted, grid, seconds_text
from eau2.errors import InvalidOption, KeyMissing
from eau2.ingest.files import is_file

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.frame.frame import Frame
    from eau2.programs.linus import DegreesDict

# The original tool's options, and ours.
SOR_SPELLINGS = {
    "-f": "--file",
    "-from": "--from",
    "-len": "--len",
    "-print_col_type": "--print-col-type",
    "-print_col_idx": "--print-col-idx",
    "-is_missing_idx": "--is-missing-idx",
}
_OPTIONS_WITH_VALUE = {"--store"}


def translated(arguments: list[str]) -> list[str]:
    """Return the command line with the original tool's options of `eau2 sor` spelled our way.

    >>> translated(["sor", "-f", "a.sor", "-from", "0", "-print_col_type", "2"])
    ['sor', '--file', 'a.sor', '--from', '0', '--print-col-type', '2']
    """
    index = 0
    while index < len(arguments) and arguments[index].startswith("-"):
        index += 2 if arguments[index] in _OPTIONS_WITH_VALUE else 1
    if arguments[index : index + 1] != ["sor"]:
        return arguments
    return [*arguments[:index], *(SOR_SPELLINGS.get(text, text) for text in arguments[index:])]


def wordcount(
    call: Call,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE_OR_KEY", help="A text file, or a key when there is no such file.", show_default=False
        ),
    ],
    top: Annotated[
        int, typer.Option("--top", metavar="N", help="How many of the most frequent words to show.", min=0)
    ] = 20,
) -> None:
    """Count the words of a text.

    A text is a file, or what is under a key: bytes, a file, or a frame with one column of text. Words are split at
    white space; case and punctuation are kept.
    """
    from eau2.programs.wordcount import wordcount as count  # with Arrow's kernels: `eau2 keys` does without

    begun = time.monotonic()
    with _text(call, source) as text:
        found = count(text)
    seconds = time.monotonic() - begun
    call.answer(
        found.to_dict(top), lambda console: _words(console, found.words, found.distinct, found.top(top), seconds)
    )


@contextmanager
def _text(call: Call, source: str) -> "Iterator[str | Frame]":
    """Give the path of the text that `source` names, or the frame that holds it."""
    if _is_path(source):
        yield source
        return
    if not call.store_exists():
        raise _no_source(source)
    with call.reading() as store:
        if not store.exists(source):
            raise _no_source(source)
        value = store.get(source)
        if not isinstance(value, bytes) and not is_file(value.schema):
            yield value
            return
        with tempfile.TemporaryDirectory(prefix="eau2-") as folder:
            path = str(Path(folder, "text"))
            store.get_file(source, path)
            yield path


def _is_path(text: str) -> bool:
    """Whether `text` names something in the file system: such a name is a file before it is a key."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # longer than a path may be, or with a NUL
        return False


def _no_source(source: str) -> KeyMissing:
    return KeyMissing(f"there is no file {source!r}, and no such key", hint="a key may need its --store")


def _words(console: Console, words: int, distinct: int, top: list[tuple[str, int]], seconds: float) -> RenderableType:
    table = grid(console, "count", "share", "word", right=("count", "share"))
    for word, count in top:
        table.add_row(f"{count:,}", f"{count / words:.2%}", Text(printable(word)))
    lines: list[RenderableType] = [
        Text(f"Words: {words:,}, in {seconds_text(seconds)}"),
        Text(f"Different words: {distinct:,}"),
    ]
    return Group(*lines, Text(""), table) if top else Group(*lines)


def linus(
    call: Call,
    users: Annotated[str, typer.Argument(metavar="USERS", help="A file, or a key: (uid, name).", show_default=False)],
    projects: Annotated[
        str, typer.Argument(metavar="PROJECTS", help="A file, or a key: (pid, name).", show_default=False)
    ],
    commits: Annotated[
        str,
        typer.Argument(
            metavar="COMMITS", help="A file, or a key: (pid, author uid, committer uid).", show_default=False
        ),
    ],
    user: Annotated[int, typer.Option("--user", metavar="UID", help="Where to begin.", min=0)] = 4967,
    degrees: Annotated[int, typer.Option("--degrees", metavar="N", help="How far to go.", min=1)] = 4,
) -> None:
    """Find who worked with whom: degrees of separation.

    For each degree: the projects that a new user is an author of, and then the authors of the new projects.
    """
    from eau2.programs.linus import linus as reach  # with Arrow's kernels: `eau2 keys` does without

    begun = time.monotonic()
    with ExitStack() as stack:
        sources = _tables(call, stack, [users, projects, commits])
        progress = False if call.json else None  # a bar, on a terminal, after a second
        found = reach(*sources, user=user, degrees=degrees, progress=progress)
    seconds = time.monotonic() - begun
    document = found.to_dict()
    call.answer(document, lambda console: _degrees(console, document, found.warning, seconds))


def _tables(call: Call, stack: ExitStack, sources: list[str]) -> "Iterator[str | Frame]":
    """Yield for each source its path, or the frame under the key when there is no such file."""
    keys = [source for source in sources if not _is_path(source)]
    store = stack.enter_context(call.reading()) if keys and call.store_exists() else None
    for source in sources:
        if source not in keys:
            yield source
        elif store is None or not store.exists(source):
            raise _no_source(source)
        else:
            yield store.frame(source)


def _degrees(console: Console, document: "DegreesDict", warning: str, seconds: float) -> RenderableType:
    columns = ("degree", "new projects", "projects", "new users", "users")
    table = grid(console, *columns, right=columns)
    for row in document["degrees"]:
        table.add_row(*(f"{row[name.replace(' ', '_')]:,}" for name in columns))
    read = ", ".join(counted(document[name], name[:-1]) for name in ("users", "projects", "commits"))
    ignored = counted(document["ignored_commits"], "commit") + " with an unknown id left out"
    notes = [Text(f"{read}, in {seconds_text(seconds)}")]
    if document["ignored_commits"]:
        notes.append(Text(ignored, style="yellow"))
    if warning:
        notes.append(Text(warning, style="yellow"))
    return Group(*notes, Text(""), table)


def sor(
    call: Call,
    path: Annotated[str | None, typer.Argument(metavar="FILE", help="A SoR file.", show_default=False)] = None,
    file: Annotated[
        str | None, typer.Option("--file", "-f", metavar="FILE", help="The same, as the original tool has it.")
    ] = None,
    from_: Annotated[int, typer.Option("--from", metavar="BYTE", help="Only lines that start at or after.", min=0)] = 0,
    len_: Annotated[
        int | None, typer.Option("--len", metavar="BYTES", help="Only lines that start within so many.", min=0)
    ] = None,
    print_col_type: Annotated[
        int | None, typer.Option("--print-col-type", metavar="C", help="Print the type of column C.")
    ] = None,
    print_col_idx: Annotated[
        tuple[int, int] | None,
        typer.Option("--print-col-idx", metavar="C ROW", help="Print the value in column C of ROW."),
    ] = None,
    is_missing_idx: Annotated[
        tuple[int, int] | None,
        typer.Option("--is-missing-idx", metavar="C ROW", help="Print 1 when it is missing, else 0."),
    ] = None,
) -> None:
    """Ask a SoR file for one type or value.

    Columns and rows count from 0. The original tool's spellings are understood too: -f FILE, -from, -len,
    -print_col_type, -print_col_idx, -is_missing_idx.
    """
    asked = [
        name
        for name, given in (
            ("--print-col-type", print_col_type),
            ("--print-col-idx", print_col_idx),
            ("--is-missing-idx", is_missing_idx),
        )
        if given is not None
    ]
    if len(asked) != 1:
        raise InvalidOption(
            "ask one of --print-col-type C, --print-col-idx C ROW and --is-missing-idx C ROW"
            + (f", not {' and '.join(asked)}" if asked else "")
        )
    source = path if path is not None else file
    if source is None or (path is not None and file is not None):
        raise InvalidOption("a SoR file is needed, as FILE or as -f FILE", hint="eau2 sor FILE --print-col-type 0")
    from eau2.cli import sor_answer  # with Arrow's kernels: `eau2 keys` does without

    document: dict[str, object]
    if print_col_type is not None:
        text = sor_answer.column_type(source, from_, len_, print_col_type)
        document = {"type": text}
    elif print_col_idx is not None:
        value = sor_answer.value(source, from_, len_, *print_col_idx)
        text, document = sor_answer.shown(value), {"value": value}
    else:
        missing = sor_answer.value(source, from_, len_, *(is_missing_idx or (0, 0))) is None
        text, document = str(int(missing)), {"missing": missing}
    call.answer(document, lambda _: print(text))  # rich would wrap it
