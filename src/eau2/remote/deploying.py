"""A cluster of eau2 is put on a Ray cluster, looked at, and brought to rest."""

from __future__ import annotations

import contextlib
import sys
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import NotServing, Unreachable
from eau2.cluster.view import State
from eau2.errors import ClusterUnavailable, Eau2Error, InvalidOption
from eau2.remote.address import Address, address_of, reach
from eau2.remote.asking import drain_node
from eau2.remote.driver import RemoteNodes
from eau2.remote.joining import checked_host, own_versions
from eau2.remote.listing import NodeListing
from eau2.remote.ray import RayTransport, connect, machines, start, stop, undeploy, whereabouts
from eau2.remote.transport import COORDINATOR, WAITS_HINT
from eau2.store.membership import WayIn

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from eau2.cluster.view import View
    from eau2.remote.coordinator import ClusterStatus
    from eau2.remote.deployment import Deployment, Placed
    from eau2.remote.membership import NodeStatus
    from eau2.store.membership import EpochChange, Member
    from eau2.store.nodes import NodeStatistics

WHOLE_SECONDS = 60.0
_ASK_SECONDS = 2.0
_LOOK_SECONDS = 0.2
STUCK_SECONDS = 15.0  # a machine that died is taken for live for so long, as is the process that has its directory
_WAITING = "waiting for "


class RayCluster:
    """The cluster of eau2 at `address`. This process is connected to it; a context manager."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.deployed = connect(address)
        self.transport = RayTransport(address.name)

    @classmethod
    def of(cls, text: str) -> RayCluster:
        """Return the cluster that `text` names, "ray:...", which is deployed. Raises as `look`; ClusterUnavailable."""
        found = cls(address_of(text))
        if found.address.name not in found.deployed:
            there = ", ".join(sorted(found.deployed)) or "none"
            raise ClusterUnavailable(
                f"the Ray cluster at {found.address.head} has no cluster {found.address.name!r}: it has {there}",
                hint="`eau2 deploy` puts one there",
            )
        return found

    def __enter__(self) -> RayCluster:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Idempotent. The process stays connected to Ray."""
        self.transport.close()

    def _asked(self, names: Iterable[str], method: str, *arguments: Any) -> dict[str, Any]:
        """Return what each of `names` says, of those that answer."""
        pending = {name: self.transport.call(name, method, (arguments, {}), _ASK_SECONDS) for name in names}
        found = {}
        for name, one in pending.items():
            with contextlib.suppress(Unreachable, NotServing):
                found[name] = one.result()
        return found

    # -- putting it there ---------------------------------------------------------------------------------------------

    def deploy(self, deployment: Deployment, *, timeout_seconds: float = WHOLE_SECONDS) -> None:
        """Have the cluster on every machine that Ray has now, and on those that join; return when it is whole.

        Where its data is there already, it goes on from that. Deploying again what is deployed changes nothing; what
        never came to be may be deployed otherwise. InvalidOption when it is deployed otherwise, or Ray has fewer
        machines than replicas in all that time; ClusterUnavailable when it is not whole in time, with the reason.
        """
        deadline = time.monotonic() + timeout_seconds
        known = self.deployed.get(deployment.name)
        differs = known is not None and self._differs(known, deployment)
        if known is None or differs:
            self._await_machines(deployment.replicas, deadline)
            if differs:
                undeploy(self.address, deployment.name)
            start(self.address, deployment)
        elif deployment.memory_bytes:
            self._asked([COORDINATOR], "share", deployment.memory_bytes)
        while (why := self._missing(deployment)) and time.monotonic() < deadline:
            time.sleep(_LOOK_SECONDS)
        if why:
            raise ClusterUnavailable(
                f"the cluster {deployment.name!r} is not whole after {timeout_seconds:g} s: {why}",
                hint=WAITS_HINT if why.startswith(_WAITING) else "`eau2 nodes` shows what becomes of it",
            )

    def _differs(self, known: Mapping[str, object], deployment: Deployment) -> bool:
        """Return whether what is deployed is other than `deployment`, and never came to be. InvalidOption when it
        did."""
        other = {name: given for name, given in deployment.options().items() if known.get(name, False) != given}
        if not other:
            return False
        status: ClusterStatus | None = self._asked([COORDINATOR], "status").get(COORDINATOR)
        if status is not None and status.view is None and self._has_no_store():
            return True
        option, given = next(iter(other.items()))
        raise InvalidOption(
            f"{deployment.name!r} is deployed with {option}={known.get(option, False)!r}, not {given!r}",
            hint="as long as its Ray cluster runs, it stays so",
        )

    def _has_no_store(self) -> bool:
        """Return whether no machine has a part of a store, as far as all say; a coordinator that was just started anew
        does not know yet."""
        placed: Mapping[str, Placed] = self._asked([COORDINATOR], "placed").get(COORDINATOR, {})
        names = {node.name for node in placed.values() if node.name}
        said: dict[str, NodeStatus] = self._asked(names, "status")
        stores = [one.store for one in placed.values()] + [one.store for one in said.values()]
        return placed.keys() >= set(self.machines()) and said.keys() == names and not any(stores)

    def _await_machines(self, replicas: int, deadline: float) -> None:
        """Wait until Ray has as many machines as there are to be copies: workers come after their head. InvalidOption
        when it has not."""
        while len(found := set(self.machines())) < replicas:
            if time.monotonic() > deadline:
                raise InvalidOption(
                    f"replicas={replicas} is more than the machines that Ray has: {', '.join(sorted(found))}",
                    hint="start Ray on others, or give --replicas",
                )
            time.sleep(_LOOK_SECONDS)

    def _missing(self, deployment: Deployment) -> str:
        """Return what is to come before the cluster is whole; "" when it is."""
        placed: Mapping[str, Placed] | None = self._asked([COORDINATOR], "placed").get(COORDINATOR)
        if placed is None:
            return "the coordinator does not answer"
        machines = self.machines()
        for machine in machines:
            if machines.count(machine) > 1:
                return f"{machine} is the label, or address, of two machines: give each --labels=eau2-machine=NAME"
            if machine not in placed or placed[machine].refused:
                return f"{machine}: {placed[machine].refused if machine in placed else 'no node yet'}"
        status: ClusterStatus | None = self._asked([COORDINATOR], "status").get(COORDINATOR)
        if status is None:
            return "the coordinator does not answer"
        members = dict(status.view.members) if status.view else {}
        names = sorted(node.name for node in placed.values() if members.get(node.name) != State.LEFT)
        refused: list[str] = [one.refused for one in self._asked(names, "status").values() if one.refused]
        if refused:
            return refused[0]
        if status.view is None:
            self._asked([COORDINATOR], "found", names, deployment.replicas)
            return f"{_WAITING}{', '.join(status.awaited) or 'the coordinator'}"
        if status.view.replicas != deployment.replicas:
            start(self.address, replace(deployment, replicas=status.view.replicas))
            raise InvalidOption(
                f"the data of {deployment.name!r} that is there keeps {status.view.replicas} copies, not "
                f"{deployment.replicas}",
                hint=f"give --replicas {status.view.replicas}",
            )
        return _short_of_whole(status.view)

    def machines(self) -> list[str]:
        """Return the machines that Ray has now, by label or address; one that it has twice comes twice."""
        return machines(self.address)

    # -- looking at it ------------------------------------------------------------------------------------------------

    def nodes(self) -> list[NodeListing]:
        """Return the nodes, in order of name: those that are members, and machines that have none. 10 ms."""
        placed: Mapping[str, Placed] = self._required("placed")
        status: ClusterStatus = self._required("status")
        known: tuple[Member, ...] = self._asked([COORDINATOR], "members").get(COORDINATOR, ())
        members = {member.name: member for member in known}
        machines = {node.name: machine for machine, node in placed.items() if node.name}
        names = sorted({*members, *machines, *status.awaited})
        said: dict[str, NodeStatus] = self._asked(names, "status")
        counts: dict[str, NodeStatistics] = self._asked(said, "statistics")
        found = []
        for name in names:
            trouble = said[name].refused if name in said else "does not answer"
            if name in status.awaited:
                trouble = f"the cluster waits for it ({WAITS_HINT})"
            listing = NodeListing(name, machines.get(name, ""), "absent", trouble=trouble)
            if name in members:
                listing = listing.as_member(members[name])
            found.append(listing.having(counts.get(name)))
        refused = [(machine, node.refused) for machine, node in sorted(placed.items()) if node.refused]
        return found + [NodeListing("", machine, "absent", trouble=why) for machine, why in refused]

    def epochs(self) -> tuple[EpochChange, ...]:
        """As `Store.epochs`."""
        found: tuple[EpochChange, ...] = self._required("epochs")
        return found

    def _required(self, method: str) -> Any:
        found = self._asked([COORDINATOR], method)
        if COORDINATOR not in found:
            raise ClusterUnavailable(
                f"the coordinator of {self.address.name!r} does not answer",
                hint="Ray starts it again within seconds when it has ended; are the machines overloaded?",
            )
        return found[COORDINATOR]

    def drain(self, name: str, *, timeout_seconds: float) -> None:
        """Have node `name` leave for good; return when it has. Raises as `drain_node`."""
        drain_node(self.transport, name, seconds=timeout_seconds)

    def await_live(self, machine: str, *, timeout_seconds: float) -> NodeListing:
        """Return the node of `machine`, which has joined, when it is live. ClusterUnavailable says what kept it from
        that in all the time, or for STUCK_SECONDS when waiting will not help."""
        deadline = time.monotonic() + timeout_seconds
        told, since = "", 0.0
        while True:
            node, why, is_stuck = self._not_live(machine)
            if node is not None and not why:
                return node
            now = time.monotonic()
            if why != told:
                told, since = why, now
            if now > deadline or (is_stuck and now - since > STUCK_SECONDS):
                raise ClusterUnavailable(
                    f"{machine} did not become live in {self.address.name!r} within {timeout_seconds:g} s: {why}",
                    hint="see to that, and join again; with --timeout, it is waited for longer",
                )
            time.sleep(_LOOK_SECONDS)

    def _not_live(self, machine: str) -> tuple[NodeListing | None, str, bool]:
        """Return the node of `machine`, why it is not live, "" when it is, and whether waiting is of little use."""
        try:
            count = self.machines().count(machine)
            node = self.node_of(machine)
        except ClusterUnavailable as error:
            return None, error.message, False
        if count != 1:
            return None, f"{machine} is the label of {count} machines", count > 1
        if node is None:
            return None, "no node yet", False
        if node.state == "live" and not node.trouble:
            return node, "", False
        return node, node.trouble or f"it is {node.state}", bool(node.trouble)

    def node_of(self, machine: str) -> NodeListing | None:
        """Return the node that `machine` has, or why it has none; None where nothing is known of it."""
        return next((node for node in self.nodes() if node.machine == machine), None)

    # -- bringing it to rest ------------------------------------------------------------------------------------------

    def rest(self, machines: Sequence[str] = ()) -> None:
        """Have all processes of the cluster close their files, the coordinator first: it is to make nothing of it that
        the nodes go; or only the nodes of `machines`. For when Ray is ended next; bounded, and does what can be
        done."""
        with contextlib.suppress(Eau2Error):
            placed: Mapping[str, Placed] = self._required("placed")
            if not machines:
                stop([COORDINATOR], self.address.name)
            ours = [node for machine, node in placed.items() if machine in machines or not machines]
            stop([node.name for node in ours if node.name], self.address.name)


def _short_of_whole(view: View) -> str:
    waiting = [
        f"{name} is {state.name.lower()}" for name, state in view.members if state not in (State.LIVE, State.LEFT)
    ]
    if waiting:
        return ", ".join(waiting)
    return "copies are being made" if view.fell or view.base != view.live else ""


class RayNodes(RemoteNodes):
    """`Nodes` of the cluster that `text` names, "ray:...". Raises as `RayCluster.of`, and NodeUnavailable."""

    def __init__(self, text: str) -> None:
        self._cluster = RayCluster.of(text)
        try:
            super().__init__(self._cluster.transport)
        except BaseException:
            self._cluster.close()
            raise

    def way_in(self) -> WayIn:
        """As `Store.way_in`: the head's address, as the machine of this process knows it."""
        address, ours = self._cluster.address, own_versions()
        hint = "nobody joins while the head is away: start it again, or another one, over the same data directories"
        reach(address.head, who="the head, {},", hint=hint)
        head, machine = whereabouts(address)
        checked_host(head.rpartition(":")[0].strip("[]"), head)
        return WayIn(head, address.name, machine, ours["Python"], ours["Ray"], ours["eau2"])

    def close(self) -> None:
        super().close()
        self._cluster.close()


if __name__ == "__main__":
    with RayCluster.of(sys.argv[1]) as cluster:
        cluster.rest(sys.argv[2:])
