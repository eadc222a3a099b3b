"""How a cluster of eau2 lies on a Ray cluster: a node on each machine, under the name that its directory has."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from eau2.errors import InvalidOption
from eau2.remote import launch
from eau2.remote.address import own_version
from eau2.remote.identity import read_identity

if TYPE_CHECKING:
    from eau2.store.database import Flush


@dataclass(frozen=True, slots=True)
class Deployment:
    """How a cluster is deployed: known to the head, and to every process of the cluster."""

    name: str
    data_directory: str = ""  # on each machine; "": where `eau2 up` has it
    replicas: int = 2
    flush: Flush = "process"
    memory_bytes: int = 0  # that queries may hold on each node; 0: half of its machine
    allow_exec: bool = False  # whether nodes run commands for whoever asks: see eau2.fleet

    def __post_init__(self) -> None:
        """InvalidOption."""
        if self.data_directory and not os.path.isabs(os.path.expanduser(self.data_directory)):
            raise InvalidOption(
                f"the data directory is the same on every machine, and so absolute, not {self.data_directory!r}",
                hint="begin it with / or ~",
            )

    def options(self) -> dict[str, object]:
        """Return what is given when it is deployed, besides its name, and stays as it is: memory may be other the next
        time."""
        return {
            "data_directory": self.data_directory,
            "replicas": self.replicas,
            "flush": self.flush,
            "allow_exec": self.allow_exec,
        }

    def who_is_there(self, label: str) -> Placed:
        """Return the node that has its data on this machine, which is labelled so; a new one where none has."""
        directory = Path(self.data_directory or launch.data_directory(self.name)).expanduser() / (label or "node")
        identity = read_identity(directory)
        # An address is no name: a machine may get that of another, which comes back under a third.
        name = identity.name if identity else label or f"{socket.gethostname()}-{secrets.token_hex(2)}"
        return Placed(name, os.fspath(directory), version=own_version(), store=identity.store if identity else "")


@dataclass(frozen=True, slots=True)
class Placed:
    """The node of a machine. `refused`: why there is none."""

    name: str
    directory: str
    refused: str = ""
    version: str = ""  # of eau2 there
    store: str = ""  # the id of what was there when it was looked for
