"""Who may do what: tokens, each with a role."""

from __future__ import annotations

import hmac
import os
from enum import IntEnum
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

VARIABLE = "EAU2_TOKEN"  # of the environment: a token for everything
TOKEN_BYTES_MIN = 16


class Role(IntEnum):
    """What a client may do; each may also do what those before it may."""

    NOTHING = 0  # but say who it is
    READ = 1
    WRITE = 2
    ADMIN = 3


class Tokens:
    """The tokens of a server; with none, who can connect may do everything."""

    def __init__(self, roles: Iterable[tuple[str, Role]] = ()) -> None:
        # The environment may have what is no UTF-8.
        self._roles = [(token.encode("utf-8", "surrogateescape"), role) for token, role in roles]
        for token, _ in self._roles:
            if len(token) < TOKEN_BYTES_MIN:
                raise InvalidOption(
                    f"a token has at least {TOKEN_BYTES_MIN} bytes", hint="`openssl rand -hex 24` makes one"
                )

    def __bool__(self) -> bool:
        return bool(self._roles)

    def __repr__(self) -> str:
        return f"<Tokens: {len(self._roles)}>"

    @property
    def at_first(self) -> Role:
        """What a client may do that has not said who it is."""
        return Role.NOTHING if self._roles else Role.ADMIN

    def role(self, token: str) -> Role:
        """Return the role of `token`, NOTHING where it is none of ours. Takes as long for any token of that length."""
        given, found = token.encode("utf-8", "surrogateescape"), Role.NOTHING
        for known, role in self._roles:
            if hmac.compare_digest(known, given):
                found = max(found, role)
        return found

    @classmethod
    def read(cls, path: str | os.PathLike[str] | None) -> Tokens:
        """Return the tokens in the file at `path`, a line `ROLE TOKEN` each, and that of EAU2_TOKEN, which is admin.

        InvalidOption where the file cannot be read, others may read it, or a line is no role and token.
        """
        roles: list[tuple[str, Role]] = []
        if os.environ.get(VARIABLE):
            roles.append((os.environ[VARIABLE], Role.ADMIN))
        if path is not None:
            try:
                with open(path, encoding="utf-8") as file:
                    if os.fstat(file.fileno()).st_mode & 0o077:
                        raise InvalidOption(f"{path} can be read by others", hint=f"chmod 600 {path}")
                    lines = file.read().splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise InvalidOption(f"the tokens at {path} cannot be read: {error}") from None
            for number, line in enumerate(lines, 1):
                if line.strip() and not line.startswith("#"):
                    roles.append(_parsed(line, f"{path}, line {number}"))
        return cls(roles)


class Access:
    """What the client of one connection may do. `audit` is told of tokens that are refused."""

    def __init__(self, tokens: Tokens, audit: Callable[[str], None]) -> None:
        self._tokens, self.audit = tokens, audit
        self.role = tokens.at_first
        self.has_tokens = bool(tokens)

    def identify(self, token: str) -> bool:
        """Give the client what `token` allows; whether it is known. A wrong one takes nothing away."""
        role = self._tokens.role(token)
        if not role:
            self.audit("token refused")
            return False
        self.role = role
        return True

    def refusal(self, wanted: Role, say: str) -> str:
        """Return why what needs `wanted` is refused: `say` to one who has no role; "" when it is not refused."""
        if self.role >= wanted:
            return ""
        return f"the token may only {self.role.name.lower()}" if self.role else say


def _parsed(line: str, where: str) -> tuple[str, Role]:
    name, _, token = line.strip().partition(" ")
    role = Role.__members__.get(name.upper(), Role.NOTHING)
    if not role or not token.strip():
        raise InvalidOption(f"{where}: not `read TOKEN`, `write TOKEN` or `admin TOKEN`")
    return token.strip(), role
