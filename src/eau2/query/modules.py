"""The caller's own module files travel with what it sends to nodes: there they are imported from memory.

What travels is the source of every module that this process has imported from a `.py` file outside of Python's own
folders (neither of the standard library, nor installed, nor of eau2), and of the files beside these and beside the main
program, which may be imported later. So `import mine` works on a node as it does here, at the top of a file, within a
function, and for what was pickled by its name. What is installed, or is no Python, must be on the nodes too. A module
is run anew in each worker process, from its file as it is when the map or program starts; what `__main__` or a notebook
defines goes by value instead, as cloudpickle does it.

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


SIBLING_BYTES_MAX = 1 << 20  # of a file that is only beside one that travels; larger ones are data


class SourceFile(NamedTuple):
    """A module that travels."""

    name: str
    file: str
    source: bytes
    is_package: bool
    is_loaded: bool  # here, so that on the node it is this and no other of its name


Modules = tuple[SourceFile, ...]


def own_modules() -> Modules:
    """Return the modules that travel, sorted by name. Some milliseconds for a hundred."""
    found: dict[str, SourceFile] = {}
    folders: dict[Path, str] = {}  # where others may lie that are imported later, and the package that they are of
    for name, module in list(sys.modules.items()):
        is_package, file = hasattr(module, "__path__"), _file(name, module)
        if file is None:
            continue
        # Without a spec it is the main program, or made by hand, as eau2's programs are: what these have goes by value.
        by_name = getattr(module, "__spec__", None) is not None and name != "__mp_main__"
        if by_name and (read := _read(name, file, is_package=is_package, is_loaded=True)):
            found[name] = read
        if file.name:
            folders[file.parent] = name if is_package else name.rpartition(".")[0] if by_name else ""
    for folder, package in folders.items():
        for path in folder.glob("*.py"):
            name = f"{package}.{path.stem}" if package else path.stem
            if name in found or path.stem == "__init__" or not path.stem.isidentifier():
                continue
            if read := _read(name, path, is_package=False, is_loaded=False):
                found[name] = read
    return tuple(found[name] for name in sorted(found))


def _file(name: str, module: types.ModuleType) -> Path | None:
    """Return the file of a module that travels, of a folder without an __init__.py Path(); None for all others."""
    file = getattr(module, "__file__", None)
    if name.partition(".")[0] == "eau2":
        return None
    if file is None:
        folder = next(iter(getattr(module, "__path__", ())), "")
        return None if not folder or folder.startswith(_INSTALLED) else Path()
    if not isinstance(file, str) or not file.endswith(".py") or file.startswith(_INSTALLED):
        return None
    return Path(file).absolute()


def _read(name: str, file: Path, *, is_package: bool, is_loaded: bool) -> SourceFile | None:
    if not file.name:
        return SourceFile(name, "", b"", is_package, is_loaded)
    with suppress(OSError):
        if is_loaded or file.stat().st_size <= SIBLING_BYTES_MAX:
            return SourceFile(name, str(file), file.read_bytes(), is_package, is_loaded)
    return None


class _Sources(MetaPathFinder, InspectLoader):
    """Finds and loads modules that have travelled."""

    def __init__(self, modules: Sequence[SourceFile]) -> None:
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
    """In a worker process: have `modules` found by `import`: those that the caller had loaded before any that are here,
    others after them."""
    sys.meta_path.insert(0, _Sources([module for module in modules if module.is_loaded]))
    sys.meta_path.append(_Sources([module for module in modules if not module.is_loaded]))
