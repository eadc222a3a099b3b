"""The parameters of a program: class attributes with annotations, and values for them."""

from __future__ import annotations

import inspect
import operator
import os
import sys
import types
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union, get_args, get_origin

from eau2.errors import InvalidOption
from eau2.programs.application import Application

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_BOOLS = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}


@dataclass(frozen=True, slots=True)
class Parameter:
    """One parameter of a program."""

    name: str
    kind: type | None  # None: its annotation is none of those that a value can be checked against
    may_be_none: bool
    required: bool

    def converted(self, value: object) -> object:
        """Return `value` as the annotation has it; ValueError or TypeError when it is nothing of the kind."""
        if value is None and self.may_be_none:
            return None
        if self.kind is None:
            raise TypeError
        return _KINDS[self.kind](value)


def declared(program: type[Application]) -> dict[str, Parameter]:
    """Return the parameters of `program` by name. InvalidOption for one that hides what every Application has."""
    found: dict[str, Parameter] = {}
    for owner in reversed(program.__mro__):
        if not issubclass(owner, Application) or owner is Application:
            continue
        for name, annotation in inspect.get_annotations(owner).items():
            if name.startswith("_"):
                continue
            if hasattr(Application, name) or name in ("on", "timeout_seconds"):
                raise InvalidOption(f"{program.__name__}.{name} cannot be a parameter: eau2 itself has that name")
            kind, may_be_none = _kind(annotation, owner)
            found[name] = Parameter(name, kind, may_be_none, required=not hasattr(program, name))
    return found


def checked(program: type[Application], given: Mapping[str, object]) -> dict[str, object]:
    """Return `given` converted by the annotations of `program`. Text will do for every kind: it is what one types.

    InvalidOption for a parameter that it does not have, cannot convert, or misses.
    """
    known = declared(program)
    values: dict[str, object] = {}
    for name, value in given.items():
        if name not in known:
            raise _unknown(program, name, list(known))
        try:
            values[name] = known[name].converted(value)
        except (ValueError, TypeError, OverflowError):
            kind = known[name].kind
            wanted = "of a type that cannot be given" if kind is None else kind.__name__
            raise InvalidOption(f"{program.__name__}.{name} is {wanted}, not {value!r:.80}") from None
    for name, parameter in known.items():
        if parameter.required and name not in values:
            raise InvalidOption(f"{program.__name__} needs the parameter {name!r}, which has no default")
    return values


def _unknown(program: type[Application], name: str, known: list[str]) -> InvalidOption:
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known) or 'none'}"
    return InvalidOption(f"{program.__name__} has no parameter {name!r}", hint=hint)


def _kind(annotation: object, owner: type) -> tuple[type | None, bool]:
    """Return the kind of an annotation (None: no kind), and whether None may be given."""
    if isinstance(annotation, str):  # `from __future__ import annotations`, which the program's file may have
        try:
            annotation = eval(annotation, dict(vars(sys.modules[owner.__module__])))
        except Exception:  # a name that only type checkers import: whatever it is, it is none of ours
            return None, False
    may_be_none = False
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        may_be_none = len(kinds) < len(get_args(annotation))
        annotation = kinds[0] if len(kinds) == 1 else None
    return (annotation if isinstance(annotation, type) and annotation in _KINDS else None), may_be_none


def _bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _BOOLS:
        return _BOOLS[value.lower()]
    raise ValueError


def _int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return int(value) if isinstance(value, str) else operator.index(value)


def _float(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError
    return float(value)


def _str(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _path(value: Any) -> Path:
    if not value or not isinstance(value, (str, os.PathLike)):
        raise ValueError
    return Path(value)


_KINDS: dict[type, Callable[[Any], object]] = {bool: _bool, int: _int, float: _float, str: _str, Path: _path}
