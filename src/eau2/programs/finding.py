"""From `file.py:Class` to the program."""

from __future__ import annotations

import inspect
import sys
import types
from difflib import get_close_matches
from pathlib import Path

from eau2.errors import InvalidOption, LoadError, ProgramFailed
from eau2.programs.application import Application
from eau2.programs.tracing import last_line
from eau2.query.crossing import error_text


def program_in(place: str) -> type[Application]:
    """Return the Application that `place` names: `file.py:Class`, or `file.py` when the file has one.

    The file is executed, with its folder on the path of imports, and as a module: its `__name__` is not "__main__".
    LoadError when it cannot be read or is no Python; ProgramFailed when it raises; InvalidOption when it has no such
    class, none, or several.
    """
    path, separator, name = place.rpartition(":")
    if not separator or Path(place).exists():
        path, name = place, ""
    module = _executed(Path(path))
    if name:
        return _named(module, name, path)
    found = _programs(module)
    if not found:
        hint = "write `class Program(eau2.Application)` with `def run(self)`"
        raise InvalidOption(f"{path} has no eau2.Application", hint=hint)
    if len(found) > 1:
        raise InvalidOption(f"{path} has {' and '.join(found)}", hint=f"name one: {path}:{next(iter(found))}")
    return next(iter(found.values()))


def _named(module: types.ModuleType, name: str, path: str) -> type[Application]:
    found = getattr(module, name, None)
    if isinstance(found, type) and issubclass(found, Application):
        return found
    known = list(_programs(module))
    near = get_close_matches(name, known, n=1)
    hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(known) or 'none'}"
    raise InvalidOption(f"{path} has no eau2.Application {name!r}", hint=hint)


def _programs(module: types.ModuleType) -> dict[str, type[Application]]:
    """Return the programs that the file itself defines, by name, as they stand in it."""
    return {
        name: found
        for name, found in vars(module).items()
        if isinstance(found, type)
        and issubclass(found, Application)
        and found.__module__ == module.__name__
        and not inspect.isabstract(found)
    }


def _executed(path: Path) -> types.ModuleType:
    import cloudpickle  # here: nobody else needs it so early

    file = str(path)
    # Not the file's own name: a program in json.py would be everybody's json.
    module = types.ModuleType(f"eau2_program_{path.stem}")
    module.__file__ = file
    try:
        code = compile(path.read_bytes(), file, "exec")
    except OSError as error:
        raise LoadError(f"cannot read {file}: {error.strerror}", file=file) from error
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", 0) or 0
        raise LoadError(f"{file}, line {line}: {getattr(error, 'msg', error)}", file=file, line=line) from error
    sys.modules[module.__name__] = module
    sys.path.insert(0, str(path.resolve().parent))
    cloudpickle.register_pickle_by_value(module)  # other processes cannot import it
    try:
        exec(code, vars(module))
    except (Exception, SystemExit) as error:
        line = last_line(file, error)
        raise ProgramFailed(f"{path.name}, line {line}: {error_text(error)}", line=line) from error
    return module
