"""Which versions are installed, of eau2 and of what it stands on."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed

PACKAGES = ("eau2", "pyarrow", "datafusion", "apsw", "numpy", "xxhash", "loky")


def versions() -> dict[str, str]:
    """Return the version of each of PACKAGES as installed, without importing it, and of Python."""
    found = {"eau2": "", "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = installed(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
