"""eau2 on Ray, and the only file that imports it: how one connects, how calls travel, and where processes are placed.

Run as a program it does for others what may hang or abort a process: it looks at a head, and starts raylets.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import logging
import os
import signal
import sys
import threading
import time
import weakref
from concurrent.futures import CancelledError, Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.exceptions
from ray._private import ray_constants, utils, worker
from ray._private.node import Node as RayNode
from ray._private.parameter import RayParams
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient

from eau2.cluster.peer import Unreachable
from eau2.errors import ClusterUnavailable, Eau2Error, InvalidOption, StoreUnusable, VersionsDiffer
from eau2.remote.address import ANSWER_SECONDS, Address, in_time, look, own_version, require_same_eau2
from eau2.remote.coordinator import CoordinatorServer
from eau2.remote.deployment import Deployment, Placed
from eau2.remote.process import Process, ServingNode
from eau2.remote.raylets import LABEL
from eau2.remote.transport import COORDINATOR, Arriving
from eau2.remote.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from eau2.remote.transport import Answer, Arguments, Pending

Value = TypeVar("Value")

_LOOK_SECONDS = 3
_LEAVE_SECONDS = 2.0
_PLACE_SECONDS = 1.0
_STOP_SECONDS = 3.0
_FREED_SECONDS = 0.05
_NODE_ID = "ray.io/node-id"  # a label that each has
_A_LITTLE = 0.0001  # of the resource that each machine has as its address
# Of actors: they outlive who made them. Events of each call, for Ray's dashboard, took a tenth of what calls cost.
_KEPT = {"lifetime": "detached", "get_if_exists": True, "max_restarts": -1, "max_task_retries": 0}
_KEPT |= {"num_cpus": 0, "enable_task_events": False}
ON_HEAD = {"resources": {"node:__internal_head__": _A_LITTLE}}  # without that machine nothing goes on anyhow
_SPACE, _EPOCHS = b"eau2", b"eau2 epochs"  # of our entries at the head, by cluster: how it is deployed, its history
_METADATA = (b"CLUSTER_METADATA", b"cluster")  # where Ray has its versions
_GONE = (ray.exceptions.RayError, CancelledError)  # the process, or what is between, has ended


# -- connecting --------------------------------------------------------------------------------------------------------

_connecting = threading.Lock()
_connected: tuple[str, ...] = ()  # by us: the head, as we were told and as Ray calls it
_before: dict[str, str | None] = {}  # what the variables were that we have set to connect
_used: weakref.WeakSet[RayTransport] = weakref.WeakSet()  # not closed yet
_PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "9999999"}  # or Ray ends a process whose head is gone


def connect(address: Address) -> dict[str, dict[str, Any]]:
    """Connect this process to the Ray cluster at `address`, unless it is; return the clusters of eau2 there, by name.

    It stays so: Ray has one connection a process. About 1 s the first time. Raises as `look`; InvalidOption when it is
    connected to another Ray cluster, by others or for a store that is open.
    """
    global _connected
    with _connecting:
        idle = _connected and not _used and ray.is_initialized() and address.head not in _connected
        if idle and not disconnected(ANSWER_SECONDS):
            raise ClusterUnavailable("the Ray cluster of before does not let go", hint="use another process")
        if ray.is_initialized():
            connected = ray.get_runtime_context().gcs_address
            if address.head != connected and address.head not in _connected:
                raise InvalidOption(
                    f"this process is connected to the Ray cluster at {connected}, not to that at {address.head}",
                    hint="Ray has one connection a process: use another, or call ray.shutdown() first",
                )
            clusters = in_time(address, functools.partial(_clusters, connected))
            require_same_eau2(clusters, address)
            return clusters
        _forget()
        clusters = look(address)
        _before.update({name: os.environ.get(name) for name in address.environment})
        os.environ.update(address.environment | _PATIENCE)
        Config.initialize("")  # Ray has read its variables when it was imported, maybe long before
        AuthenticationTokenLoader.instance().reset_cache()
        ray_constants.ENABLE_RAY_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in os.environ
        worker.listen_error_messages = lambda *_: None  # it prints news of Ray's on standard output, which is ours
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        near = {"_node_ip_address": address.host} if address.host else {}
        try:
            in_time(address, lambda: ray.init(address.head, **quiet, **near))
        finally:
            os.environ.pop(*_PATIENCE)  # not for a cluster that is started from here
        atexit.register(_leave)
        if threading.current_thread() is threading.main_thread():  # no other may say what signals do
            # Ray would abort the process three seconds after SIGTERM, also one that has a handler and ends well.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        _connected = address.head, ray.get_runtime_context().gcs_address
        return clusters


def _forget() -> None:
    """Have the environment as it was before we connected, if we did: the next cluster may have another token."""
    global _connected
    _connected = ()
    for name, value in _before.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value
    _before.clear()


def disconnected(seconds: float) -> bool:
    """Disconnect, unless that takes over so many seconds; return whether it is done. A raylet that is ended under a
    connection takes the process with it."""
    leaving = threading.Thread(target=ray.shutdown, name="eau2-leaving", daemon=True)
    leaving.start()
    leaving.join(seconds)
    return not leaving.is_alive()


def _leave() -> None:
    """Disconnect when this process ends. Ray itself would wait for a cluster that is gone, and then crash."""
    if not disconnected(_LEAVE_SECONDS):
        print("eau2: the Ray cluster does not answer; the process ends without taking leave of it", file=sys.stderr)
        sys.stdout.flush()
        os._exit(1)


# -- how calls travel --------------------------------------------------------------------------------------------------


class RayTransport:
    """A `Transport`: each process is an actor, found by its name in the namespace of its cluster."""

    def __init__(self, cluster: str) -> None:
        self._namespace = _namespace(cluster)
        self._actors: dict[str, Any] = {}
        self._finding = Turns("eau2-finding", 4, share=4)  # asks the head, which may be gone: nobody waits for it
        _used.add(self)

    def call(self, name: str, method: str, arguments: Arguments, timeout_seconds: float) -> Pending:
        """As `Transport.call`."""
        answer: Future[Answer] = Future()
        answer.set_running_or_notify_cancel()  # who waits no longer must not end it: the answer may still come
        actor = self._actors.get(name)
        if actor is not None:
            self._send(name, actor, method, arguments, answer)
        else:
            self._finding.add(self, [functools.partial(self._find_and_send, name, method, arguments, answer)])
        return Arriving(name, answer, timeout_seconds)

    def _find_and_send(self, name: str, method: str, arguments: Arguments, answer: Future[Answer]) -> None:
        try:
            actor = self._actors[name] = ray.get_actor(name, namespace=self._namespace)
        except (ValueError, ray.exceptions.RayError):  # there is none, or the head does not say
            answer.set_result((None, Unreachable(name)))
        else:
            self._send(name, actor, method, arguments, answer)

    def _send(self, name: str, actor: Any, method: str, arguments: Arguments, answer: Future[Answer]) -> None:
        sent = actor.ask.remote(method, arguments).future()
        sent.add_done_callback(functools.partial(self._arrived, name, answer))

    def _arrived(self, name: str, answer: Future[Answer], sent: Future[Answer]) -> None:
        error = sent.exception()
        if error is None:
            answer.set_result(sent.result())
        elif isinstance(error, _GONE) and not isinstance(error, ray.exceptions.RayTaskError):  # that is a fault of ours
            if isinstance(error, ray.exceptions.ActorDiedError):  # for good; another may get its name
                self._actors.pop(name, None)
            answer.set_result((None, Unreachable(name)))
        else:
            answer.set_exception(error)

    def close(self) -> None:
        _used.discard(self)
        self._finding.close()


def _namespace(cluster: str) -> str:
    """Return the namespace of the actors of a cluster: what keeps several apart."""
    return f"eau2:{cluster}"


# -- processes, and where they are -------------------------------------------------------------------------------------


class NodeProcess(ServingNode):
    """A node that is an actor."""

    transport = RayTransport


class CoordinatorProcess(Process):
    """The coordinator. It sees to it that each machine has a node, also those that join later."""

    node: type[NodeProcess] = NodeProcess

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self._deployment = deployment
        self._placed: dict[str, Placed] = {}  # by machine
        self._server = CoordinatorServer(RayTransport(deployment.name), kept=functools.partial(_kept, deployment.name))
        threading.Thread(target=self._place, name="eau2-placing", daemon=True).start()

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        if method == "placed":
            return self._placed, None
        if method == "share":  # of memory, for nodes that come: those that are there keep theirs
            self._deployment = replace(self._deployment, memory_bytes=arguments[0][0])
            return None, None
        return await super().ask(method, arguments)

    def _place(self) -> None:
        while True:
            try:
                self._look()
            except Exception:  # the head does not answer, or a machine is gone just now: the next look is soon
                logging.getLogger(__name__).exception("nodes could not be placed")
            time.sleep(_PLACE_SECONDS)

    def _look(self) -> None:
        known = _actors(self._deployment.name)
        machines = {_machine(node): node for node in ray.nodes() if node["Alive"]}
        new = [name for name in machines if name not in self._placed or self._placed[name].name not in known]
        asked = {name: self._ask_who_is_there(machines[name]) for name in new}
        for name, answer in asked.items():
            try:
                placed: Placed = ray.get(answer, timeout=ANSWER_SECONDS)
                self._require_own(placed, name, machines)
                self._start_node(placed, machines[name])
            except (Eau2Error, ray.exceptions.RayError) as error:
                placed = Placed("", "", str(getattr(error, "cause", None) or error))  # without Ray's traceback
            self._placed = {**self._placed, name: placed}

    def _require_own(self, placed: Placed, machine: str, machines: dict[str, Any]) -> None:
        """Raise unless `machine` has our eau2, and a node of its own. The node of a machine that is gone moves here."""
        if placed.version != own_version():
            raise VersionsDiffer(
                f"eau2 is {placed.version} there, and {own_version()} on the head's machine",
                hint="install the same on all machines, and start Ray there anew",
            )
        others = [other for other, its in self._placed.items() if its.name == placed.name and other != machine]
        for other in others:
            if other in machines:
                raise StoreUnusable(
                    f"{placed.directory} has the node {placed.name!r}, as {other} has",
                    hint="give each machine a data directory of its own, and --labels=eau2-machine=NAME",
                )
            with contextlib.suppress(ValueError):  # its process is bound to the address of before
                ray.kill(ray.get_actor(placed.name, namespace=_namespace(self._deployment.name)))
            self._placed = {one: its for one, its in self._placed.items() if one != other}

    def _ask_who_is_there(self, node: dict[str, Any]) -> Any:
        there = {_NODE_ID: node["NodeID"]}
        ask = ray.remote(num_cpus=0, max_retries=0, label_selector=there)(Deployment.who_is_there)
        return ask.remote(self._deployment, node["Labels"].get(LABEL, ""))

    def _start_node(self, placed: Placed, node: dict[str, Any]) -> None:
        """Bound to its machine, by what stays the same when that returns."""
        label, address = node["Labels"].get(LABEL), f"node:{node['NodeManagerAddress']}"
        where: dict[str, Any] = {"label_selector": {LABEL: label}} if label else {"resources": {address: _A_LITTLE}}
        actor(self.node, placed.name, self._deployment.name, **where).remote(self._deployment, placed)


def actor(process: type[Process], name: str, cluster: str, **where: Any) -> Any:
    """Return what makes `process` under `name`, unless there is one. It outlives who made it."""
    return ray.remote(process).options(
        name=name,
        namespace=_namespace(cluster),
        **_KEPT,
        **where,
    )


def _machine(node: dict[str, Any]) -> str:
    """Return the machine of `node`, one of ray.nodes(): its label, or else its address."""
    return str(node["Labels"].get(LABEL) or node["NodeManagerAddress"])


def machines(address: Address) -> list[str]:
    """Return the machines that Ray has; one that it has twice comes twice."""
    return sorted(_machine(node) for node in in_time(address, ray.nodes) if node["Alive"])


def whereabouts(address: Address) -> tuple[str, str]:
    """Return the head as Ray calls it, and the machine of the raylet that this process is connected by."""
    ours = ray.get_runtime_context().get_node_id()
    found = [_machine(node) for node in in_time(address, ray.nodes) if node["NodeID"] == ours]
    return ray.get_runtime_context().gcs_address, "".join(found)


def start(address: Address, deployment: Deployment) -> None:
    """Have the coordinator of a cluster, and let others know of the cluster."""

    def do() -> None:
        name, value = deployment.name.encode(), json.dumps({"eau2": own_version()} | deployment.options()).encode()
        GcsClient(address=address.head).internal_kv_put(name, value, True, _SPACE, timeout=_LOOK_SECONDS)
        actor(CoordinatorProcess, COORDINATOR, deployment.name, **ON_HEAD).remote(deployment)

    in_time(address, do)


def _kept(cluster: str, data: bytes | None) -> bytes | None:
    """Have the head keep `data`, if given, as the history of a cluster; return that. It has it as long as it lives."""
    head, name = GcsClient(address=ray.get_runtime_context().gcs_address), cluster.encode()
    if data is not None:
        head.internal_kv_put(name, data, True, _EPOCHS, timeout=_LOOK_SECONDS)
    return head.internal_kv_get(name, _EPOCHS, timeout=_LOOK_SECONDS)  # type: ignore[no-any-return]


def undeploy(address: Address, cluster: str) -> None:
    """End what there is of a cluster that never came to be, and have nobody know of it."""

    def do() -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while (there := _actors(cluster)) and time.monotonic() < deadline:  # their names are free milliseconds later
            for name in there & {COORDINATOR} or there:  # it would start the nodes anew
                with contextlib.suppress(ValueError):
                    ray.kill(ray.get_actor(name, namespace=_namespace(cluster)))
            time.sleep(_FREED_SECONDS)
        GcsClient(address=address.head).internal_kv_del(cluster.encode(), False, _SPACE, timeout=_LOOK_SECONDS)

    in_time(address, do)


def _actors(cluster: str) -> set[str]:
    """Return the names of the processes of a cluster."""
    there = ray.util.list_named_actors(all_namespaces=True)
    return {one["name"] for one in there if one["namespace"] == _namespace(cluster)}


def stop(names: Sequence[str], cluster: str) -> None:
    """Have processes end what they do; returns when they have, or after some seconds."""
    try:
        actors = [ray.get_actor(name, namespace=_namespace(cluster)) for name in names]
        ray.wait([actor.stop.remote() for actor in actors], num_returns=len(actors), timeout=_STOP_SECONDS)
    except (ValueError, ray.exceptions.RayError):  # there is none
        return


# -- as a program ------------------------------------------------------------------------------------------------------


def _look(address: str) -> dict[str, Any]:
    """Return what the head at `address` says of itself. May hang, or end the process."""
    try:
        print("ready", flush=True)  # Ray is imported: now it is the head that is waited for
        said = GcsClient(address=address).internal_kv_get(*_METADATA, timeout=_LOOK_SECONDS)
        found: dict[str, Any] = json.loads(said or b"{}")
        return found | {"clusters": _clusters(address)}
    except ray.exceptions.AuthenticationError:
        return {"refused": True}


def _clusters(address: str) -> dict[str, dict[str, Any]]:
    """Return what each cluster of eau2 was deployed with."""
    head = GcsClient(address=address)
    names = head.internal_kv_keys(b"", _SPACE, timeout=_LOOK_SECONDS)
    found = {name.decode(): head.internal_kv_get(name, _SPACE, timeout=_LOOK_SECONDS) for name in names}
    return {name: json.loads(value) for name, value in found.items() if value}


def _start_raylet(address: str, raylet: dict[str, Any]) -> str:
    """Start a raylet with options of Ray's, and the head if there is no `address`. Return that.

    Not by `ray start`: of 127.0.0.1 it makes an address that the network sees, and it listens on all interfaces then.
    Without what ray[default] would bring if it is installed, which listens too.
    """
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")
    options = RayParams(
        gcs_address=address or None,
        gcs_server_port=None if address else 0,
        include_dashboard=False,
        **raylet,
    )
    found: str = RayNode(options, head=not address, shutdown_at_exit=False, spawn_reaper=False).gcs_address
    return found


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    logging.getLogger("ray").setLevel(logging.ERROR)
    print(_start_raylet(**given) if "raylet" in given else json.dumps(_look(**given)))
