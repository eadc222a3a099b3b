"""What a key may be: a checked name. It says what, never where."""

import unicodedata

from eau2.errors import InvalidKey

KEY_BYTES_MAX = 512  # of UTF-8; keeps several keys on one database page

MARK = "\x00"  # a key of a user has no control characters: what begins with one is the store's own, an internal key
FIRST = "\x01"  # below all keys of users, above all internal ones
HOLD = MARK + "h"  # + key, MARK, rank


def check_key(key: object) -> str:
    """Return `key` if it is one: text of 1 to 512 bytes of UTF-8 without control characters.

    >>> check_key("trips/2026 é")
    'trips/2026 é'

    Raises InvalidKey. Costs about 0.1 microseconds for ASCII.
    """
    if type(key) is str and key.isascii() and key.isprintable() and 0 < len(key) <= KEY_BYTES_MAX:
        return key
    return _check_slowly(key)


def _check_slowly(key: object) -> str:
    if not isinstance(key, str):
        raise InvalidKey(f"a key is text, not {type(key).__name__}: {key!r:.80}", hint="pass a str")
    if not key:
        raise InvalidKey("a key has at least one character", hint="pass a name")
    try:
        size = len(key.encode())
    except UnicodeEncodeError as error:
        raise InvalidKey(f"a key is valid unicode, {key!r:.80} has a lone surrogate at {error.start}") from None
    if size > KEY_BYTES_MAX:
        raise InvalidKey(f"a key has at most {KEY_BYTES_MAX} bytes of UTF-8, not {size}: {key[:40]!r}...")
    for index, character in enumerate(key):
        if unicodedata.category(character) == "Cc":
            raise InvalidKey(f"a key has no control characters, {key!r:.80} has {character!r} at {index}")
    return str(key)


def hold_key(key: str, rank: int) -> str:
    """Return the internal key under which nodes keep what they hold of the chunks of the frame `key` of `rank`.

    >>> hold_key("trips", 258)
    '\\x00htrips\\x000000000000000102'
    """
    return f"{HOLD}{key}{MARK}{rank:016x}"


def held_key(name: str) -> str:
    """Return the frame's key that `hold_key` made `name` of.

    >>> held_key(hold_key("trips", 258))
    'trips'
    """
    return name[len(HOLD) : -17]


def prefix_end(prefix: str) -> str | None:
    """Return the least text above every text that starts with `prefix`, or None when there is none.

    Texts are ordered by code point, which is also the order of their UTF-8 bytes.

    >>> prefix_end("ab")
    'ac'
    """
    for index in range(len(prefix) - 1, -1, -1):
        code = ord(prefix[index]) + 1
        if code == 0xD800:  # surrogates are no text
            code = 0xE000
        if code <= 0x10FFFF:
            return prefix[:index] + chr(code)
    return None
