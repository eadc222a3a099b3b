"""What a pattern of names matches, place by place: as slow as it may be, and never slower."""

from __future__ import annotations


def matches(pattern, name):
    """Whether `pattern` matches `name`, in time that is their product whatever they are."""
    reached = {0}  # lengths of the beginnings of `name` that the pattern matches so far
    for star, letters, negated in _places(pattern):
        if star:
            reached = set(range(min(reached), len(name) + 1)) if reached else reached
        else:
            reached = {
                at + 1
                for at in reached
                if at < len(name) and any(low <= name[at] <= high for low, high in letters) != negated
            }
    return len(name) in reached


def _places(pattern):
    """Yield whether each place of `pattern` is a star, and the ranges of letters that stand there, or may not."""
    at = 0
    while at < len(pattern):
        letter, at = pattern[at], at + 1
        if letter == "*":
            yield True, [], False
        elif letter == "?":
            yield False, [], True
        elif letter != "[":
            if letter == "\\" and at < len(pattern):
                letter, at = pattern[at], at + 1
            yield False, [(letter, letter)], False
        else:
            negated = pattern[at : at + 1] == "^"
            at += negated
            ranges = []
            while at < len(pattern) and pattern[at] != "]":
                at += pattern[at] == "\\" and at + 1 < len(pattern)
                low = high = pattern[at]
                at += 1
                if pattern[at : at + 1] == "-" and at + 1 < len(pattern) and pattern[at + 1] != "]":
                    at += 1
                    at += pattern[at] == "\\" and at + 1 < len(pattern)
                    high = pattern[at]
                    at += 1
                ranges.append((min(low, high), max(low, high)))
            at += 1
            yield False, ranges, negated
