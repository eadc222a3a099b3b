"""The page in a browser: it shows what is there, runs nothing of what users wrote, and asks nobody else."""

import json
import os
import re
import shutil
import subprocess
from urllib.parse import urlsplit

import pytest
from tests.until import until

from eau2.monitor.routes import FILES

CHROMIUM = shutil.which("chromium")
EVIL = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'</script>"
QUIET = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-default-apps --no-pings --virtual-time-budget=2000"
)
ONLY_HERE = "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1"  # a browser asks its maker things of its own
EVENT = re.compile(r'^(\{"params":.*\}),?$', re.MULTILINE)  # a line each of what the browser notes of its network

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here"),
]


@pytest.fixture
def shown(watched, tmp_path):
    """What the page has in it at a place, after some seconds, and what the browser asked for."""

    def show(place):
        log = tmp_path / "net.json"
        command = [
            CHROMIUM,
            *QUIET.split(),
            ONLY_HERE,
            f"--user-data-dir={tmp_path / 'profile'}",
            f"--log-net-log={log}",
        ]
        host, port = watched.server.addresses["http"]
        done = subprocess.run(
            [*command, "--dump-dom", f"http://{host}:{port}/monitor/#{place}"],
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
            env={**os.environ, "HOME": str(tmp_path)},
        )
        asked = [json.loads(event).get("params", {}) for event in EVENT.findall(log.read_text())]
        of_page = {each["url"] for each in asked if each.get("initiator") == f"http://{host}:{port}" and "url" in each}
        return done.stdout, of_page, f"{host}:{port}"

    return show


@pytest.mark.parametrize("nodes", [3])
def test_a_browser_shows_nodes_keys_a_frame_and_queries_and_asks_this_server_only(watched, shown):
    store = watched.store
    store.put(EVIL, b"x")
    store.sql("select 'a</pre><script>' as evil, count(*) from trips").to_arrow()
    watched.http().get("/monitor/overview")
    page, asked, own = shown("/")
    assert all(f">{name}</a>" in page for name in store.nodes)
    assert "3 live" in page
    page, more, _ = shown("/keys/")
    assert "&lt;img src=x onerror=" in page
    assert "<img src=x" not in page
    assert "<title>Keys · eau2</title>" in page
    frame, again, _ = shown("/frame/trips")
    assert ">vendor<" in frame
    assert "2999" in frame
    assert until(lambda: store.tables.queries.recent())
    queries, last, _ = shown("/queries")
    assert "select 'a&lt;/pre&gt;&lt;script&gt;' as evil" in queries
    asked |= more | again | last
    assert {urlsplit(url).netloc for url in asked} == {own}
    paths = {urlsplit(url).path for url in asked}
    assert {f"/monitor/static/{name}" for name in FILES if name != "page.html"} <= paths
    assert {f"/monitor/{name}" for name in ("events", "who", "sparks", "keys", "frame", "chunks")} <= paths
