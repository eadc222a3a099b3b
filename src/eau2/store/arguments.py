"""What callers may pass to a store's verbs, checked where it comes in."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping

from eau2.errors import InvalidKey, InvalidOption, InvalidValue
from eau2.values.key import KEY_BYTES_MAX, check_key


def checked_path(path: str | os.PathLike[str]) -> str:
    """Return `path` as text. InvalidOption when it is none."""
    try:
        text = os.fsdecode(path)
    except (TypeError, UnicodeError):
        text = ""
    if not text or "\0" in text:
        raise InvalidOption(f"a path is text without NUL, not {path!r:.80}", hint="pass a str or pathlib.Path")
    return text


def checked_prefix(prefix: str) -> str:
    """Return `prefix`. InvalidKey when no key can start with it because it is no unicode text."""
    if not isinstance(prefix, str):
        raise InvalidKey(f"a prefix is text, not {type(prefix).__name__}: {prefix!r:.80}", hint="pass a str")
    try:
        prefix.encode()
    except UnicodeEncodeError as error:
        raise InvalidKey(f"a prefix is valid unicode, {prefix!r:.80} has a lone surrogate at {error.start}") from None
    return prefix


def checked_seconds(seconds: object) -> float:
    """Return `seconds`. InvalidOption unless it is a number from 0; infinity is one."""
    if not isinstance(seconds, (int, float)) or not seconds >= 0:
        raise InvalidOption(f"timeout_seconds is a number from 0, not {seconds!r:.80}")
    return seconds


def several(keys: Iterable[str]) -> Iterable[str]:
    """Return `keys`. InvalidKey for one key where a list is expected, and for what is no list."""
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Iterable):
        raise InvalidKey(f"a list of keys was expected, not {type(keys).__name__} {keys!r:.80}", hint="pass [key]")
    return keys


def check_keys(keys: Collection[str]) -> None:
    """Raise InvalidKey unless all of `keys` are keys. 0.04 us for each when all are ASCII."""
    try:
        text = "".join(keys)
        if text.isascii() and text.isprintable() and min(map(len, keys)) > 0 and max(map(len, keys)) <= KEY_BYTES_MAX:
            return
    except (TypeError, ValueError):  # not all are text, or there are none
        pass
    for key in keys:
        check_key(key)


def checked_values(values: Mapping[str, object]) -> Mapping[str, object]:
    """Return `values`. InvalidValue unless it is a mapping."""
    if not isinstance(values, Mapping):
        raise InvalidValue(f"put_many takes a dict of keys and values, not {type(values).__name__}")
    return values
