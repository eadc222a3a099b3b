"""certificate: what `eau2 serve` needs for TLS, made for development."""

import shlex
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from eau2.cli.call import Call
from eau2.doors.certificates import DAYS, DAYS_MAX, Pair, make_pair


def certificate(
    call: Call,
    folder: Annotated[Path, typer.Argument(metavar="[FOLDER]", help="Where to; here unless told.")] = Path(),
    host: Annotated[
        list[str] | None,
        typer.Option("--host", metavar="NAME", help="Also for this name or address. May be repeated."),
    ] = None,
    days: Annotated[
        int, typer.Option("--days", metavar="N", help="For so long it is good.", min=1, max=DAYS_MAX)
    ] = DAYS,
    replace: Annotated[bool, typer.Option("--replace", help="Make them anew where they are.")] = False,
) -> None:
    """Make cert.pem and key.pem for a server's TLS, for development.

    They are for localhost, 127.0.0.1 and ::1, and what --host says. Clients that are given cert.pem trust the server.
    """
    pair = make_pair(folder, host or (), days=days, replace=replace)
    document = {
        "certificate": str(pair.certificate),
        "key": str(pair.key),
        "hosts": list(pair.hosts),
        "until": pair.until.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "fingerprint": pair.fingerprint,
    }
    call.answer(document, lambda console: console.print(Text(_made(pair)), soft_wrap=True))  # lines are to be copied


def _made(pair: Pair) -> str:
    certificate, key = shlex.quote(str(pair.certificate)), shlex.quote(str(pair.key))
    lines = [
        f"{pair.certificate}: for {', '.join(pair.hosts)}, until {pair.until:%Y-%m-%d}; clients get it",
        f"{pair.key}: its key, for the server alone",
        "",
        f"eau2 serve --tls-cert {certificate} --tls-key {key}",
        f"redis-cli --tls --cacert {certificate} -p 7379",
        f"eau2 crud localhost:7401 --tls-ca {certificate}",
    ]
    return "\n".join(lines)
