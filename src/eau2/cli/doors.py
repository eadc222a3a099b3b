"""serve, crud: a store's doors, and the client of one of them."""

import os
import select
import signal
import socket
import ssl
import sys
import threading
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from eau2.cli.call import Call, print_json
from eau2.cli.screen import text_or_base64
from eau2.cli.tls import TlsDoor, trusting
from eau2.errors import InvalidOption, NodeUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from eau2.monitor.rules import Rules
    from eau2.store.store import Store

FLIGHT_PORT, CRUD_PORT, UDP_PORT, REDIS_PORT, HTTP_PORT = 7400, 7401, 7402, 7379, 7480
_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_LOOK_SECONDS = 0.05  # between two looks whether a signal has come
_CONNECT_SECONDS = 10.0
_SILENT_SECONDS = 60.0  # without a reply while some are awaited
_READ_BYTES = 1 << 16

_PORT_HELP = "{} are served at this port; 0 is any that is free, off is none."
HostOption = Annotated[
    str, typer.Option("--host", metavar="HOST", help="Where to listen. Beyond loopback tokens are demanded.")
]
FlightOption = Annotated[
    str,
    typer.Option("--flight-port", metavar="PORT", help=_PORT_HELP.format("eau2.open('eau2://...') and Arrow Flight")),
]
CrudOption = Annotated[str, typer.Option("--crud-port", metavar="PORT", help=_PORT_HELP.format("CRUD lines over TCP"))]
UdpOption = Annotated[
    str | None,
    typer.Option(
        "--udp-port",
        metavar="PORT",
        help=_PORT_HELP.format("Requests by UDP") + f" {UDP_PORT}, but none where there are tokens, which UDP has not.",
    ),
]
RedisOption = Annotated[str, typer.Option("--redis-port", metavar="PORT", help=_PORT_HELP.format("Clients of Redis"))]
HttpOption = Annotated[
    str | None,
    typer.Option(
        "--http-port",
        metavar="PORT",
        help=_PORT_HELP.format("Requests by HTTP") + f" {HTTP_PORT}, where eau2\\[serve] is installed.",
    ),
]
PageOption = Annotated[
    bool, typer.Option("--page", help="Serve a page to watch the store with, at /monitor/ of the HTTP door.")
]
TrustOption = Annotated[
    list[str] | None,
    typer.Option("--udp-trust", metavar="NETWORK", help="Answer datagrams from there too. May be repeated."),
]
TokensOption = Annotated[
    str | None,
    typer.Option(
        "--token-file", metavar="FILE", help="Lines `read|write|admin TOKEN`; EAU2_TOKEN is one for everything."
    ),
]
CertificateOption = Annotated[
    str | None, typer.Option("--tls-cert", metavar="FILE", help="Serve TCP by TLS with this certificate.")
]
TlsKeyOption = Annotated[str | None, typer.Option("--tls-key", metavar="FILE", help="The key of --tls-cert.")]
ConnectionsOption = Annotated[
    int, typer.Option("--connections", metavar="N", help="At most so many connections at a time.", min=1)
]
ShutdownOption = Annotated[
    bool, typer.Option("--allow-shutdown", help="A datagram from this machine may end the server.")
]
AlertsOption = Annotated[
    str | None, typer.Option("--alerts", metavar="FILE", help="Look for alerts by the rules in this file (TOML).")
]
WipeOption = Annotated[bool, typer.Option("--allow-wipe", help="A datagram, and FLUSHDB of an admin, may delete all.")]


def serve(
    call: Call,
    host: HostOption = "127.0.0.1",
    flight_port: FlightOption = str(FLIGHT_PORT),
    crud_port: CrudOption = str(CRUD_PORT),
    redis_port: RedisOption = str(REDIS_PORT),
    http_port: HttpOption = None,
    page: PageOption = False,
    udp_port: UdpOption = None,
    udp_trust: TrustOption = None,
    token_file: TokensOption = None,
    tls_cert: CertificateOption = None,
    tls_key: TlsKeyOption = None,
    connections_max: ConnectionsOption = 10_000,
    allow_shutdown: ShutdownOption = False,
    allow_wipe: WipeOption = False,
    alerts: AlertsOption = None,
) -> None:
    """Let clients in: eau2.open("eau2://...") and Arrow Flight, HTTP, Redis's protocol, CRUD lines over TCP, and UDP.

    Until Ctrl-C or SIGTERM; then what was accepted is answered. What happens is logged to standard error as JSON.
    """
    from eau2.doors.log import log, logged_to_standard_error
    from eau2.doors.server import Doors, Server, has_http  # asyncio takes 50 ms to import
    from eau2.doors.tokens import Tokens

    tokens, (tls, certificate), left_out = Tokens.read(token_file), _tls(tls_cert, tls_key), False
    if udp_port is None:
        udp_port = "off" if tokens and not udp_trust else str(UDP_PORT)
    if http_port is None:
        http_port = str(HTTP_PORT) if page or has_http() else "off"
        left_out = http_port == "off"
    if page and http_port == "off":
        raise InvalidOption("the page is at the HTTP door, which is off", hint="give --http-port, or leave --page out")
    doors = Doors(
        host=host,
        flight_port=_port("--flight-port", flight_port),
        crud_port=_port("--crud-port", crud_port),
        redis_port=_port("--redis-port", redis_port),
        http_port=_port("--http-port", http_port),
        udp_port=_port("--udp-port", udp_port),
        page=page,
        udp_trust=tuple(udp_trust or ()),
        allow_shutdown=allow_shutdown,
        allow_wipe=allow_wipe,
        connections_max=connections_max,
    )
    rules = None if alerts is None else _rules(alerts)
    with logged_to_standard_error(), _told_to_stop() as told, call.making() as store, _alerting(store, rules, log):
        if left_out:
            log("left out", door="http", hint='pip install "eau2[serve]"')
        with Server(store, doors, tokens=tokens, tls=tls, certificate=certificate) as server:
            with suppress(BrokenPipeError):  # nobody reads that it serves, which is no reason not to
                call.answer(
                    {"pid": os.getpid(), "doors": {door: list(where) for door, where in server.addresses.items()}},
                    lambda _: Text(_listening(call.store_path, server.addresses, page=page, is_tls=tls is not None)),
                )
                sys.stdout.flush()
            while not told and not server.stopped.wait(_LOOK_SECONDS):
                pass


def crud(
    call: Call,
    address: Annotated[str, typer.Argument(metavar="HOST:PORT", help="A door for CRUD lines.", show_default=False)],
    tls_ca: Annotated[
        str | None, typer.Option("--tls-ca", metavar="FILE", help="By TLS, with a certificate this vouches for.")
    ] = None,
) -> None:
    """Send CRUD lines from standard input to a server, and print its replies.

    C KEY VALUE, R KEY, U KEY VALUE, D KEY, DONE. A token is taken from EAU2_TOKEN.
    """
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdigit():
        raise InvalidOption(f"an address is HOST:PORT, not {address!r}", hint=f"for example 127.0.0.1:{CRUD_PORT}")
    with _connected(host.strip("[]"), int(port), tls_ca) as door:
        sender = _Sender(door)
        replies = _received(door, address, sender)
        if call.json:
            print_json({"replies": [_document(line, value) for line, value in _replies(replies)]})
            return
        for data in replies:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


# -- private ----------------------------------------------------------------------------------------------------------


def _port(option: str, text: str) -> int | None:
    if text == "off":
        return None
    if not text.isascii() or not text.isdigit() or int(text) > 65_535:
        raise InvalidOption(f"{option} is a port from 0 to 65535, or off, not {text!r}")
    return int(text)


def _tls(certificate: str | None, key: str | None) -> tuple[ssl.SSLContext, tuple[bytes, bytes]] | tuple[None, None]:
    if certificate is None and key is None:
        return None, None
    if certificate is None or key is None:
        raise InvalidOption("--tls-cert and --tls-key go together")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(certificate, key)
        with open(certificate, "rb") as public, open(key, "rb") as secret:
            return context, (public.read(), secret.read())
    except OSError as error:  # ssl.SSLError is one
        raise InvalidOption(f"{certificate} and {key} are no certificate and key: {error}") from None


def _rules(path: str) -> "Rules":
    from eau2.monitor.asking import Asking  # the engine takes 0.3 s to import
    from eau2.monitor.rules import read_rules

    return read_rules(path, Asking().check)


def _alerting(store: "Store", rules: "Rules | None", log: "Callable[..., None]") -> AbstractContextManager[object]:
    """Return what looks for alerts while it is open, if there are rules."""
    if rules is None:
        return nullcontext()
    from eau2.monitor.alerts import Alerts

    return Alerts(store, rules, log=log)


def _listening(store: str, addresses: dict[str, tuple[str, int]], *, page: bool, is_tls: bool) -> str:
    names = {"flight": "Arrow Flight", "http": "HTTP", "crud": "CRUD lines", "redis": "Redis", "udp": "UDP"}
    lines = [f"{names[door]:13} {host}:{port}" for door, (host, port) in addresses.items()]
    if page:
        host, port = addresses["http"]
        lines.append(f"{'the page':13} {'https' if is_tls else 'http'}://{host}:{port}/monitor/")
    return "\n".join([f"serving {store}; Ctrl-C ends it", *lines])


@contextmanager
def _told_to_stop() -> "Iterator[list[int]]":
    """Within this, a SIGINT or SIGTERM is no more than a number in a list: what was accepted is answered. The server
    has times of its own, so the watch over late commands is off; a second signal ends the process."""
    told: list[int] = []

    def tell(number: int, _: object) -> None:
        if told:
            os._exit(128 + number)
        told.append(number)

    watch = signal.set_wakeup_fd(-1)
    before = {number: signal.signal(number, tell) for number in _SIGNALS}
    try:
        yield told
    finally:
        if not told:
            signal.set_wakeup_fd(watch, warn_on_full_buffer=False)
            for number, how in before.items():
                signal.signal(number, how)


def _connected(host: str, port: int, tls_ca: str | None) -> socket.socket | TlsDoor:
    where, tls = f"{host}:{port}", None if tls_ca is None else trusting(tls_ca)
    try:
        door = socket.create_connection((host, port), timeout=_CONNECT_SECONDS)
        if tls is not None:
            door = tls.wrap_socket(door, server_hostname=host)
        token = os.environ.get("EAU2_TOKEN")
        if token:
            door.sendall(b"AUTH " + token.encode("utf-8", "surrogateescape") + b"\n")
            reply = door.recv(_READ_BYTES)
            if reply != b"OK\n":
                raise NodeUnavailable(f"{where} refuses the token: {reply.decode('utf-8', 'replace').strip()}")
        door.settimeout(_SILENT_SECONDS)
    except OSError as error:
        raise NodeUnavailable(f"{where} does not answer: {error}", hint="`eau2 serve` opens a door") from None
    return TlsDoor(door) if isinstance(door, ssl.SSLSocket) else door


class _Sender(threading.Thread):
    """Sends standard input, a line end if its last line has none, and that there is no more."""

    def __init__(self, door: socket.socket | TlsDoor) -> None:
        super().__init__(name="eau2-crud", daemon=True)
        self._door = door
        self.failed = False  # the server took no more
        self.start()

    def run(self) -> None:
        last = b"\n"
        try:
            while data := os.read(sys.stdin.fileno(), _READ_BYTES):
                self._door.sendall(data)
                last = data[-1:]
            if last != b"\n":
                self._door.sendall(b"\n")
            self._door.shutdown(socket.SHUT_WR)
        except OSError:
            self.failed = True


def _received(door: socket.socket | TlsDoor, address: str, sender: _Sender) -> "Iterator[bytes]":
    """Yield what comes from `door` until it closes."""
    end = b""
    while True:
        try:
            while not select.select([door], [], [], _SILENT_SECONDS)[0]:
                if not sender.is_alive():  # else somebody may be typing
                    raise NodeUnavailable(f"{address} has not answered for {_SILENT_SECONDS:g} seconds")
            data = door.recv(_READ_BYTES)
        except OSError as error:
            raise NodeUnavailable(f"{address} has gone: {error}") from None
        if not data:
            break
        end = (end + data)[-4:]
        yield data
    if sender.failed and end != b"BYE\n":
        raise NodeUnavailable(f"{address} closed the connection before it had read everything")


def _replies(received: "Iterator[bytes]") -> "Iterator[tuple[str, bytes | None]]":
    data = b"".join(received)
    while data:
        line, _, data = data.partition(b"\n")
        value = None
        if line.startswith(b"VALUE "):
            size = int(line[6:])
            value, data = data[:size], data[size + 1 :]
        yield line.decode("utf-8", "replace"), value


def _document(line: str, value: bytes | None) -> dict[str, object]:
    reply, _, rest = line.partition(" ")
    if value is not None:
        return {"reply": reply, **text_or_base64(value)}
    return {"reply": reply, "reason": rest} if rest else {"reply": reply}
