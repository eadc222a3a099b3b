"""The caller's own module files travel with what it sends to nodes: there they are imported from memory.

What travels is the source of every module that this process has imported from a `.py` file outside of Python's own
folders: neither of the standard library, nor installed, nor of eau2. So `import mine` works on a node as it does here,
at the top of a file, within a function, and for what was pickled by its name. What is installed, or is no Python, must
be on the nodes too. A module is run anew in each worker process, from its file as it is when the map or program starts;
what `__main__` or a notebook defines goes by value instead, as cloudpickle does it.

Everything by value would lose modules that hold a lock, and imports within functions.
"""

from __future__ import annotations

import linecache
import site
import sys
import sysconfig
from contextlib import suppress
from importlib.abc import InspectLoader, MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import types
    from collections.abc import Sequence

_FOLDERS = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
_INSTALLED = tuple(f"{folder}/" for folder in {*_FOLDERS, *site.getsitepackages(), site.getusersitepackages()})


class SourceFile(NamedTuple):
    """A module that travels."""

    name: str
    file: str
    source: bytes
    is_package: bool


Modules = tuple[SourceFile, ...]


def own_modules() -> Modules:
    """Return the modules that travel, sorted by name. A millisecond for a hundred."""
    found = (_source_file(name, module) for name, module in list(sys.modules.items()))
    return tuple(sorted(module for module in found if module is not None))


def _source_file(name: str, module: types.ModuleType) -> SourceFile | None:
    if name in ("__main__", "__mp_main__") or name.partition(".")[0] == "eau2":
        return None
    file = getattr(module, "__file__", None)
    is_package = hasattr(module, "__path__")
    if file is None and is_package and not _is_installed(next(iter(module.__path__), "")):
        return SourceFile(name, "", b"", is_package)  # a folder without an __init__.py
    if not isinstance(file, str) or not file.endswith(".py") or _is_installed(file):
        return None
    if getattr(module, "__spec__", None) is None:  # made by hand, as eau2's programs are: they go by value
        return None
    with suppress(OSError):
        return SourceFile(name, file, Path(file).read_bytes(), is_package)
    return None


def _is_installed(file: str) -> bool:
    return not file or file.startswith(_INSTALLED)


class _Sources(MetaPathFinder, InspectLoader):
    """Finds and loads modules that have travelled."""

    def __init__(self, modules: Modules) -> None:
        self._modules = {module.name: module for module in modules}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        found = self._modules.get(fullname)
        if found is None:
            return None
        spec = ModuleSpec(fullname, self, origin=found.file or None, is_package=found.is_package)
        spec.has_location = bool(found.file)
        return spec

    def get_source(self, fullname: str) -> str:
        found = self._modules[fullname]
        source = decode_source(found.source)
        linecache.cache[found.file] = (len(source), None, source.splitlines(keepends=True), found.file)
        return source

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_source(fullname), self._modules[fullname].file or "<folder>")

    def is_package(self, fullname: str) -> bool:
        return self._modules[fullname].is_package


def install(modules: Modules) -> None:
    """In a worker process: have `modules` found by `import`, before any that are here."""
    sys.meta_path.insert(0, _Sources(modules))
