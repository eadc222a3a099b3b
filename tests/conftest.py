import contextlib
import gc
import importlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from tests.left import Left
from tests.sharing import Sharing, is_on_ray
from tests.tables import make_tables, shared_engine, tables  # noqa: F401  # fixtures

pytest.register_assert_rewrite("tests.contract", "tests.crash")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as a shell starts what is to run in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile(
    "eau2", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
settings.register_profile("fast", settings.get_profile("eau2"), max_examples=20)  # make check
settings.register_profile("long", settings.get_profile("eau2"), max_examples=2000)  # HYPOTHESIS_PROFILE=long, by hand
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "eau2"))


@pytest.fixture(scope="session")
def processes():
    """A context whose processes start in milliseconds: they fork from a server that has imported what they need."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pandas", "eau2", "tests.contract.history", "tests.crash.deeds", "tests.store.killed"]
    )
    return context


@pytest.fixture(scope="session")
def ray_clusters():
    from tests import ray_cluster  # Ray takes half a second to import

    yield ray_cluster
    ray_cluster.end()


@pytest.fixture
def ray_cluster(ray_clusters):
    """Three machines of Ray; see `tests/ray_cluster.py`. Of it there is one: see `tests/sharing.py`."""
    return ray_clusters.running()


@pytest.fixture
def no_garbage():
    """Frames of earlier tests are gone, so that what is counted belongs to this test."""
    gc.collect()


@pytest.fixture(autouse=True)
def nothing_left(tmp_path_factory, request):
    """Every test ends with no thread, child process, open file or socket of ours that was not there before."""
    shares_engine = not {"shared_engine", "stores"}.isdisjoint(request.fixturenames)
    if uses_ray := "ray_cluster" in request.fixturenames:
        request.getfixturevalue("ray_cluster")  # what it opens is not the test's
    before = Left(str(tmp_path_factory.getbasetemp()), shares_engine=shares_engine, uses_ray=uses_ray)
    yield
    assert before.wait() == []


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session):
    """Where several processes share all tests, each imports a part of the files before it looks into all: the first to
    import a file rewrites its assertions for all, which takes longer than all else here when nothing is cached yet."""
    shared = getattr(session.config, "workerinput", None)
    if shared is None or [Path(path).name for path in session.config.args] != session.config.getini("testpaths"):
        return
    paths = sorted(Path(__file__).parent.rglob("test_*.py"))
    number = int(shared["workerid"].removeprefix("gw"))
    for path in paths[number :: shared["workercount"]]:
        with contextlib.suppress(Exception, pytest.skip.Exception):  # is said when the file is collected
            importlib.import_module(".".join(path.relative_to(session.config.rootpath).with_suffix("").parts))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    return Sharing(config, log)


@pytest.hookimpl(trylast=True)  # after the test's own fixtures
def pytest_runtest_teardown(item, nextitem):
    """End the machines of Ray when the tests go on to others, which have the processors then."""
    clusters = sys.modules.get("tests.ray_cluster")
    if clusters and is_on_ray(item.nodeid) and not (nextitem and is_on_ray(nextitem.nodeid)):
        clusters.end()


def pytest_collection_modifyitems(items):
    for item in items:
        if "ray_cluster" in getattr(item, "fixturenames", ()):
            assert is_on_ray(item.nodeid), f"{item.nodeid} starts a cluster of its own: its file's name says no Ray"


def pytest_collection_finish():
    """What is imported by now stays: collecting garbage, which many tests wait for, need not look through it."""
    gc.collect()
    gc.freeze()
