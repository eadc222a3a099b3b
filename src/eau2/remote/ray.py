"""eau2 on Ray, and the only file that imports it: how one connects, how calls travel, and where processes are placed.

Run as a program it does for others what may hang or abort a process: it looks at a head, and starts raylets.
"""

from __future__ import annotations

import asyncio
import atexit
import functools
import importlib
import json
import logging
import os
import signal
import sys
import threading
import time
import traceback
import weakref
from concurrent.futures import CancelledError, Future
from typing import TYPE_CHECKING, Any, TypeVar

import ray
import ray.exceptions
from ray._private import ray_constants, utils, worker
from ray._private.node import Node as RayNode
from ray._private.parameter import RayParams
from ray._raylet import AuthenticationTokenLoader, Config, GcsClient

from eau2.cluster.peer import Unreachable
from eau2.errors import ClusterUnavailable, Eau2Error, InvalidOption
from eau2.remote.address import Address, look, own_version
from eau2.remote.coordinator import CoordinatorServer
from eau2.remote.deployment import Deployment, Placed
from eau2.remote.membership import NodeStatus
from eau2.remote.raylets import LABEL
from eau2.remote.server import NodeServer
from eau2.remote.transport import COORDINATOR, Arriving
from eau2.remote.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from eau2.remote.transport import Answer, Arguments, Pending

Value = TypeVar("Value")

_LOOK_SECONDS = 3
_CONNECT_SECONDS = 20.0  # 0.5 s here
_LEAVE_SECONDS = 2.0
_PLACE_SECONDS = 1.0
_STOP_SECONDS = 3.0
_NODE_ID = "ray.io/node-id"  # a label that each has
_A_LITTLE = 0.0001  # of the resource that each machine has as its address
ON_HEAD = {"resources": {"node:__internal_head__": _A_LITTLE}}  # without that machine nothing goes on anyhow
_LOOPBACK = "127.0.0.1"
_SPACE = b"eau2"  # of our entries at the head: what each cluster was deployed with, by its name
_METADATA = (b"CLUSTER_METADATA", b"cluster")  # where Ray has its versions
_GONE = (ray.exceptions.RayError, CancelledError)  # the process, or what is between, has ended


# -- connecting --------------------------------------------------------------------------------------------------------

_connecting = threading.Lock()
_connected = False  # by us
_used: weakref.WeakSet[RayTransport] = weakref.WeakSet()  # not closed yet
_PATIENCE = {"RAY_gcs_rpc_server_reconnect_timeout_s": "9999999"}  # or Ray ends a process whose head is gone


def connect(address: Address) -> dict[str, dict[str, Any]]:
    """Connect this process to the Ray cluster at `address`, unless it is; return the clusters of eau2 there, by name.

    It stays so: Ray has one connection a process. About 1 s the first time. Raises as `look`; InvalidOption when it is
    connected to another Ray cluster, by others or for a store that is open.
    """
    global _connected
    with _connecting:
        if _connected and not _used and ray.is_initialized() and ray.get_runtime_context().gcs_address != address.head:
            if not _left(_CONNECT_SECONDS):
                raise ClusterUnavailable("the Ray cluster of before does not let go", hint="use another process")
            _connected = False
        if ray.is_initialized():
            connected = ray.get_runtime_context().gcs_address
            if connected != address.head:
                raise InvalidOption(
                    f"this process is connected to the Ray cluster at {connected}, not to that at {address.head}",
                    hint="Ray has one connection a process: use another, or call ray.shutdown() first",
                )
            return _in_time(address, functools.partial(_clusters, connected))
        clusters = look(address)
        os.environ.update(address.environment | _PATIENCE)
        Config.initialize("")  # Ray has read its variables when it was imported, maybe long before
        AuthenticationTokenLoader.instance().reset_cache()
        ray_constants.ENABLE_RAY_CLUSTER &= "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER" not in address.environment
        worker.listen_error_messages = lambda *_: None  # it prints news of Ray's on standard output, which is ours
        quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR", "include_dashboard": False}
        try:
            _in_time(address, lambda: ray.init(address.head, **quiet))
        finally:
            os.environ.pop(*_PATIENCE)  # not for a cluster that is started from here
        atexit.register(_leave)
        if threading.current_thread() is threading.main_thread():  # no other may say what signals do
            # Ray would abort the process three seconds after SIGTERM, also one that has a handler and ends well.
            signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGTERM) or signal.SIG_DFL)
        _connected = True
        return clusters


def _left(seconds: float) -> bool:
    """Disconnect, unless that takes over so many seconds; return whether it is done."""
    leaving = threading.Thread(target=ray.shutdown, name="eau2-leaving", daemon=True)
    leaving.start()
    leaving.join(seconds)
    return not leaving.is_alive()


def _leave() -> None:
    """Disconnect when this process ends. Ray itself would wait for a cluster that is gone, and then crash."""
    if not _left(_LEAVE_SECONDS):
        print("eau2: the Ray cluster does not answer; the process ends without taking leave of it", file=sys.stderr)
        sys.stdout.flush()
        os._exit(1)


def _in_time(address: Address, ask: Callable[[], Value]) -> Value:
    """Return what `ask` does, in a thread of its own, as it may hang: on a raylet that is frozen, for one."""
    done: Future[Value] = Future()

    def run() -> None:
        try:
            done.set_result(ask())
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="eau2-connecting", daemon=True).start()
    try:
        return done.result(_CONNECT_SECONDS)
    except Exception as error:
        why = "does not answer" if isinstance(error, TimeoutError) else f"refuses: {error}"
        raise ClusterUnavailable(
            f"the Ray cluster at {address.head} {why}",
            hint="does a raylet run on this machine, and is neither it nor the head stopped or overloaded?",
        ) from error


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


class Process:
    """What an actor is to others: one who answers. When it ends Ray starts it anew, as long as its machine is there;
    what counts is on a disk."""

    def __init__(self) -> None:
        self._server: NodeServer | CoordinatorServer | None = None

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        """Have `method` done."""
        if self._server is None:
            return None, Unreachable("a node that is not ready")
        try:
            return await asyncio.wrap_future(self._server.ask(method, arguments))
        except asyncio.CancelledError:  # it was stopped meanwhile
            return None, Unreachable("a node that has ended")

    async def stop(self) -> None:
        """End what it does, and leave its files as they are to be."""
        if self._server is not None:
            self._server.stop()


class NodeProcess(Process):
    """A node. Its directory may be in use when it begins, by a process that was given up and has not ended: it tries
    until it gets it, as Ray does not start an actor anew that raises here."""

    def __init__(self, deployment: Deployment, placed: Placed) -> None:
        super().__init__()
        self._refused = ""
        threading.Thread(target=self._begin, args=(deployment, placed), name="eau2-beginning", daemon=True).start()

    def _begin(self, deployment: Deployment, placed: Placed) -> None:
        transport, memory_bytes = RayTransport(deployment.name), deployment.memory_bytes or None
        while self._server is None:
            try:
                self._server = NodeServer(
                    placed.directory, transport, name=placed.name, flush=deployment.flush, memory_bytes=memory_bytes
                )
            except Exception as error:
                self._refused = str(error) if isinstance(error, Eau2Error) else traceback.format_exc()
                time.sleep(_PLACE_SECONDS)
        importlib.import_module("eau2.distributed.runner")  # 0.3 s that the first query need not wait

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        if self._server is None and method == "status":
            return NodeStatus("", "", 0, serves=False, refused=self._refused), None
        return await super().ask(method, arguments)


class CoordinatorProcess(Process):
    """The coordinator. It sees to it that each machine has a node, also those that join later."""

    node: type[NodeProcess] = NodeProcess

    def __init__(self, deployment: Deployment) -> None:
        super().__init__()
        self._deployment = deployment
        self._placed: dict[str, Placed] = {}  # by machine
        self._server = CoordinatorServer(RayTransport(deployment.name))
        threading.Thread(target=self._place, name="eau2-placing", daemon=True).start()

    async def ask(self, method: str, arguments: Arguments) -> Answer:
        if method == "placed":
            return self._placed, None
        return await super().ask(method, arguments)

    def _place(self) -> None:
        while True:
            try:
                self._look()
            except Exception:  # the head does not answer, or a machine is gone just now: the next look is soon
                logging.getLogger(__name__).exception("nodes could not be placed")
            time.sleep(_PLACE_SECONDS)

    def _look(self) -> None:
        space = _namespace(self._deployment.name)
        known = {one["name"] for one in ray.util.list_named_actors(all_namespaces=True) if one["namespace"] == space}
        machines = {_machine(node): node for node in ray.nodes() if node["Alive"]}
        new = [name for name in machines if name not in self._placed or self._placed[name].name not in known]
        asked = {name: self._ask_who_is_there(machines[name]) for name in new}
        for name, answer in asked.items():
            try:
                placed: Placed = ray.get(answer, timeout=_CONNECT_SECONDS)
                self._start_node(placed, machines[name])
            except (Eau2Error, ray.exceptions.RayError) as error:
                placed = Placed("", "", str(error))
            self._placed = {**self._placed, name: placed}

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
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=-1,
        max_task_retries=0,
        **where,
    )


def _machine(node: dict[str, Any]) -> str:
    """Return the machine of `node`, one of ray.nodes(): its label, or else its address."""
    return str(node["Labels"].get(LABEL) or node["NodeManagerAddress"])


def machines(address: Address) -> list[str]:
    """Return the machines that Ray has."""
    return sorted({_machine(node) for node in _in_time(address, ray.nodes) if node["Alive"]})


def start(address: Address, deployment: Deployment) -> None:
    """Have the coordinator of a cluster, and let others know of the cluster."""

    def do() -> None:
        name, value = deployment.name.encode(), json.dumps({"eau2": own_version()} | deployment.options()).encode()
        GcsClient(address=address.head).internal_kv_put(name, value, True, _SPACE, timeout=_LOOK_SECONDS)
        actor(CoordinatorProcess, COORDINATOR, deployment.name, **ON_HEAD).remote(deployment)

    _in_time(address, do)


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
    """Start a raylet on the loopback interface, with options of Ray's, and the head if there is no `address`. Return
    that.

    Not by `ray start`: of 127.0.0.1 it makes an address that the network sees, and it listens on all interfaces then.
    Without what ray[default] would bring if it is installed, which listens too.
    """
    utils.get_dashboard_dependency_error = lambda: ImportError("not wanted")
    options = RayParams(
        node_ip_address=_LOOPBACK,
        gcs_address=address or None,
        gcs_server_port=None if address else 0,
        min_worker_port=0,
        max_worker_port=0,
        dashboard_agent_listen_port=0,
        include_dashboard=False,
        include_log_monitor=False,
        no_monitor=True,
        num_gpus=0,
        **raylet,
    )
    found: str = RayNode(options, head=not address, shutdown_at_exit=False, spawn_reaper=False).gcs_address
    return found


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    logging.getLogger("ray").setLevel(logging.ERROR)
    print(_start_raylet(**given) if "raylet" in given else json.dumps(_look(**given)))
