"""Patterns of names as Redis has them: `*` `?` `[a-z]` `[^a]`, and a backslash before what is meant to the letter."""

from __future__ import annotations

import re


def compiled(pattern: str) -> re.Pattern[str]:
    r"""Return what matches the names of `pattern` as a whole. A name takes linear time for each `*`.

    >>> [bool(compiled("k[a-c]*\\?").fullmatch(name)) for name in ("kb-12?", "kd?", "ka")]
    [True, False, False]
    """
    parts = [""]  # between stars
    at = 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*":
            parts.append("")
        elif character == "?":
            parts[-1] += "."
        elif character == "[":
            found, at = _one_of(pattern, at)
            parts[-1] += found
        else:
            if character == "\\" and at < len(pattern):
                character = pattern[at]
                at += 1
            parts[-1] += re.escape(character)
    if len(parts) == 1:
        return re.compile(parts[0], re.DOTALL)
    # The first place where a part fits is as good as any later one, so that nothing need be tried again.
    middle = "".join(f"(?>.*?{part})" for part in parts[1:-1])
    return re.compile(f"{parts[0]}{middle}.*{parts[-1]}", re.DOTALL)


def _one_of(pattern: str, at: int) -> tuple[str, int]:
    """Return the expression for what stands behind a `[`, and where that ends: at the `]`, or with the pattern."""
    negated = pattern[at : at + 1] == "^"
    at += negated
    found = ""
    while at < len(pattern) and pattern[at] != "]":
        first, at = _letter(pattern, at)
        last = first
        if pattern[at : at + 1] == "-" and at + 1 < len(pattern) and pattern[at + 1] != "]":
            last, at = _letter(pattern, at + 1)
        first, last = sorted((first, last))
        found += f"{re.escape(first)}-{re.escape(last)}"
    if not found:
        return ("." if negated else "(?!)"), at + 1
    return f"[{'^' if negated else ''}{found}]", at + 1


def _letter(pattern: str, at: int) -> tuple[str, int]:
    if pattern[at] == "\\" and at + 1 < len(pattern):
        at += 1
    return pattern[at], at + 1
