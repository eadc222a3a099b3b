"""The command line: `eau2`."""

from eau2.cli.app import main

__all__ = ["main"]
