"""What commands on several nodes write, as lines. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from eau2.fleet.run import Output, Stream

LINE_BYTES_MAX = 64 << 10  # a longer line is shown as several


class Line(NamedTuple):
    """A line that a node's command wrote, without its end. Bytes that are no UTF-8 are shown as escapes."""

    node: str
    stream: Stream
    text: str


class Lines:
    """Joins what comes in pieces, and what comes twice because two nodes have passed it on."""

    def __init__(self) -> None:
        self._begun: dict[tuple[str, Stream], bytes] = {}  # lines that have no end yet
        self._known: dict[tuple[str, Stream], int] = {}  # how many bytes have come

    def take(self, said: Output) -> Iterator[Line]:
        """Yield the lines that `said` ends."""
        which = said.node, said.stream
        known = self._known.get(which, 0)
        new = said.data[max(0, known - said.start) :]
        if not new:
            return
        data = self._begun.get(which, b"")
        if said.start > known:  # all who had asked for it were lost, and it is kept for so long only
            data += b"[%d bytes are missing]\n" % (said.start - known)
        self._known[which] = said.start + len(said.data)
        *ended, rest = (data + new).split(b"\n")
        while len(rest) > LINE_BYTES_MAX:
            ended.append(rest[:LINE_BYTES_MAX])
            rest = rest[LINE_BYTES_MAX:]
        self._begun[which] = rest
        for line in ended:
            yield _line(which, line)

    def rest_of_all(self) -> Iterator[Line]:
        """Yield what all have written last, without the end of a line."""
        for node in sorted({node for node, _ in self._begun}):
            yield from self.rest(node)

    def rest(self, node: str) -> Iterator[Line]:
        """Yield what `node` has written last, without the end of a line: it has ended."""
        for which in [which for which in self._begun if which[0] == node]:
            if rest := self._begun.pop(which):
                yield _line(which, rest)


def _line(which: tuple[str, Stream], data: bytes) -> Line:
    return Line(*which, data.removesuffix(b"\r").decode("utf-8", "backslashreplace"))
