"""`python -m eau2.demo [FOLDER]`: a first look at eau2, in ./demo-data by default."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from rich.console import Console

from eau2.cli.screen import screen
from eau2.demo import page, tour
from eau2.errors import Eau2Error


def main() -> int:
    """Return the exit code: 0, or 3 when something failed, which has been said."""
    parser = argparse.ArgumentParser(prog="python -m eau2.demo", description="A first look at eau2.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path("demo-data"), help="default: ./demo-data")
    folder = parser.parse_args().folder
    errors = Console(stderr=True, highlight=False, markup=False)
    try:
        with errors.status("Opening") as status:
            found = tour.walk(folder, lambda next_: status.update(next_ + " ..."))
    except Eau2Error as error:
        errors.print(str(error))
        return 3
    except KeyboardInterrupt:
        return 130
    page.show(screen(), found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
