"""put, get, delete, keys, wait: the verbs of single keys."""

import sys
import time
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from eau2.cli.call import Call
from eau2.cli.screen import counted, grid, is_piped, screen, size_text, text_or_base64
from eau2.errors import InvalidOption, ValueTooLarge, WaitTimeout, WrongKind
from eau2.ingest.files import is_file
from eau2.store.store import VALUE_BYTES_MAX
from eau2.values.key import check_key

if TYPE_CHECKING:
    from eau2.frame.frame import Frame
    from eau2.store.store import Store

KeyArgument = Annotated[
    str, typer.Argument(metavar="KEY", help="A name of 1 to 512 bytes of UTF-8.", show_default=False)
]
OutputOption = Annotated[
    str | None,
    typer.Option("--output", "-o", metavar="PATH", help="Write the value to this file, whole or not at all."),
]
_STDIN = "-"


def put(
    call: Call,
    key: KeyArgument,
    value: Annotated[
        str | None,
        typer.Argument(metavar="VALUE", help="The value as text; standard input when left out.", show_default=False),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("--file", "-f", metavar="PATH", help="Store this file, of any size; - is standard input."),
    ] = None,
    new: Annotated[bool, typer.Option("--new", help="Only where nothing is under the key.")] = False,
    if_version: Annotated[
        int | None, typer.Option("--if-version", metavar="N", help="Only where the version is N.", show_default=False)
    ] = None,
) -> None:
    """Store bytes or a file under a key.

    The value is the argument, or standard input, or with --file a whole file.
    """
    check_key(key)
    if (value is not None) + (file is not None) > 1:
        raise InvalidOption("a value and --file were both given", hint="give one of them")
    if file is not None and (new or if_version is not None):
        raise InvalidOption("--new and --if-version are for bytes, not for --file")
    if new and if_version is not None:
        raise InvalidOption("--new and --if-version were both given", hint="give one of them")
    data = _value(key, value) if file is None else b""
    with call.making() as store:
        if file is not None:
            version = store.put_file(key, "/dev/stdin" if file == _STDIN else file)
        elif new:
            version = store.create(key, data)
        elif if_version is not None:
            version = store.update(key, data, if_version=if_version)
        else:
            version = store.put(key, data)
        size = len(data) if file is None else _file_size(store.frame(key))
    kind = "bytes" if file is None else "file"
    document = {"key": key, "kind": kind, "version": version, "bytes": size}
    call.answer(document, lambda _: Text(f"{key}: {size_text(size)}, version {version}"))


def _value(key: str, value: str | None) -> bytes:
    if value is not None:
        return value.encode("utf-8", "surrogateescape")  # as the shell gave it, also where that is not UTF-8
    if sys.stdin.isatty():
        print("reading the value from the terminal: end it with Ctrl-D", file=sys.stderr)
    data = sys.stdin.buffer.read(VALUE_BYTES_MAX + 1)
    if len(data) > VALUE_BYTES_MAX:
        raise ValueTooLarge(
            f"{key!r}: standard input has over {VALUE_BYTES_MAX:,} bytes, the limit for one value",
            hint="`eau2 put KEY --file -` stores standard input of any size as a file",
        )
    return data


def _file_size(frame: "Frame") -> int:
    from eau2.cli.description import file_size  # with Arrow's kernels: `eau2 keys` does without

    return file_size(frame)


def get(call: Call, key: KeyArgument, output: OutputOption = None) -> None:
    """Print what is under a key.

    Bytes and files come as they are, a frame as `eau2 show` has it. A file goes to a pipe or to --output.
    """
    with call.reading() as store:
        show_value(call, store, key, store.get(key), output)


def show_value(call: Call, store: "Store", key: str, value: "bytes | Frame", output: str | None) -> None:
    """Print or write what is under `key`, as `eau2 get` does."""
    whole = isinstance(value, bytes) or is_file(value.schema)
    if not whole and output is not None:
        raise WrongKind(
            f"{key!r} holds a frame, not bytes or a file",
            hint=f"`eau2 sql 'select * from \"{key}\"' -o {output}` writes its rows",
        )
    if isinstance(value, bytes) and output is None:
        _print_bytes(call, store, key, value)
    elif isinstance(value, bytes) or whole:
        _give_file(call, store, key, value, output)
    else:
        from eau2.cli.description import show_frame  # with Arrow's kernels: bytes do without

        show_frame(call, key, value, rows=10)


def _print_bytes(call: Call, store: "Store", key: str, value: bytes) -> None:
    if not call.json:
        sys.stdout.buffer.write(value)
        sys.stdout.buffer.flush()
        return
    document: dict[str, object] = {"key": key, "kind": "bytes", "version": store.version(key), "bytes": len(value)}
    call.answer(document | text_or_base64(value), lambda _: None)


def _give_file(call: Call, store: "Store", key: str, value: "bytes | Frame", output: str | None) -> None:
    """Write a file (or bytes) to `output`; without it to standard output, unless that is a terminal or --json is on."""
    document: dict[str, object] = {"key": key, "kind": "bytes" if isinstance(value, bytes) else "file"}
    document["version"] = store.version(key)
    if output is not None:
        size = store.get_file(key, output)
        document |= {"bytes": size, "path": output}
        call.answer(document, lambda _: Text(f"{output}: {size_text(size)}"))
    elif not isinstance(value, bytes):
        if not call.json and is_piped():
            for batch in value.batches():
                for piece in batch.column(0):
                    sys.stdout.buffer.write(piece.as_buffer())
            sys.stdout.buffer.flush()
            return
        size = _file_size(value)
        text = f"{key}: a file of {size_text(size)}; `eau2 get KEY --output PATH` writes it, a pipe gets it as it is"
        call.answer(document | {"bytes": size, "path": None}, lambda _: Text(text))


def delete(
    call: Call,
    keys: Annotated[list[str], typer.Argument(metavar="KEY", help="What to delete.", show_default=False)],
) -> None:
    """Delete one or more keys.

    Exit 1 when nothing was under one of them.
    """
    for key in keys:
        check_key(key)
    with call.reading() as store:
        gone = {key: store.delete(key) for key in dict.fromkeys(keys)}
    deleted, absent = [key for key in gone if gone[key]], [key for key in gone if not gone[key]]
    words = f"deleted {counted(len(deleted), 'key')}"
    if absent:
        words += "; nothing under " + ", ".join(map(repr, absent[:10])) + (", ..." if len(absent) > 10 else "")
    call.answer({"deleted": deleted, "absent": absent}, lambda _: Text(words))
    if absent:
        raise typer.Exit(1)


def keys(
    call: Call,
    prefix: Annotated[str, typer.Argument(metavar="PREFIX", help="Only keys that start so.", show_default=False)] = "",
    long: Annotated[bool, typer.Option("--long", "-l", help="Also kind, version, rows and size.")] = False,
) -> None:
    """List the keys in order, one a line."""
    with call.reading() as store:
        names = store.keys(prefix)
        if long:
            from eau2.cli.description import described  # with Arrow's kernels: `eau2 keys` does without

            _list(call, [row for row in (described(store, name) for name in names) if row is not None])
            return
    if call.json:
        call.answer(names, lambda _: None)
    else:
        sys.stdout.write("".join(f"{name}\n" for name in names))


def _list(call: Call, rows: list[dict[str, object]]) -> None:
    if call.json:
        call.answer(rows, lambda _: None)
        return
    console = screen()
    table = grid(console, "key", "kind", "version", "rows", "size", right=("version", "rows", "size"))
    for row in rows:
        count, size = row["rows"], row["bytes"]
        assert isinstance(size, int)
        table.add_row(
            Text(str(row["key"])),
            Text(str(row["kind"]), style="cyan" if row["kind"] == "frame" else ""),
            str(row["version"]),
            f"{count:,}" if isinstance(count, int) else "",
            size_text(size),
        )
    console.print(table)


def wait(
    call: Call,
    key: KeyArgument,
    timeout: Annotated[float, typer.Option("--timeout", metavar="SECONDS", help="How long to wait.")] = 60.0,
    output: OutputOption = None,
) -> None:
    """Wait for a key, and print what is put there.

    Any process may put it, and may make the store. Exit 1 when it does not come in time.
    """
    check_key(key)
    if not timeout >= 0:
        raise InvalidOption(f"--timeout is at least 0, not {timeout:g}")
    deadline = time.monotonic() + timeout
    call.wait_for_store(deadline)
    with call.reading() as store:
        try:
            value = store.wait(key, timeout_seconds=max(0.0, deadline - time.monotonic()))
        except WaitTimeout as error:  # it knows only of the time that was left
            raise WaitTimeout(
                f"nothing was put under {key!r} within {timeout:g} seconds",
                hint="wait longer with --timeout, or see whether the process that puts it lives",
            ) from error
        show_value(call, store, key, value, output)
