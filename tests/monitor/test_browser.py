"""The page in a browser: it shows what is there, runs nothing of what users wrote, and asks nobody else."""

import threading
from urllib.parse import urlsplit

import pytest
from tests.monitor.browser import CHROMIUM, Browser
from tests.monitor.conftest import ADMIN, READ
from tests.until import SECONDS_MAX, until

from eau2.errors import QueryError
from eau2.monitor import watch as watching
from eau2.monitor.routes import FILES

EVIL = "<img src=x onerror=\"document.title='ran'\"><script>document.title='ran'"
LONG = "with recursive r as (select 1 as n union all select n + 1 from r where n < 9000000) select count(*) as n from r"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here"),
]


@pytest.fixture
def browser(tmp_path, monkeypatch):
    monkeypatch.setattr(watching, "LOOK_SECONDS", 0.1)
    monkeypatch.setattr(watching, "SHARE", 1.0)
    with Browser(tmp_path / "profile") as made:
        yield made


def address(served):
    host, port = served.server.addresses["http"]
    return f"http://{host}:{port}/monitor/"


@pytest.mark.parametrize("nodes", [3])
def test_a_browser_shows_all_of_it_and_asks_this_server_only(watched, browser):
    store = watched.store
    store.put(EVIL, b"x")
    store.sql("select 'a</pre><script>' as evil, count(*) from trips").to_arrow()
    browser.tell("Page.navigate", url=address(watched))
    until(lambda: "3 live" in browser.text())
    assert all(name in browser.text() for name in store.nodes)
    until(lambda: browser.run("document.querySelector('.top .line')?.getAttribute('d')"))  # the chart is drawn
    store.put("another", b"x")
    until(lambda: browser.run("document.querySelector('.facts').innerText.includes('3\\n1 of them frames')"))
    browser.run("location.hash = '#/keys/'")
    until(lambda: EVIL in browser.text())
    browser.run("[...document.querySelectorAll('.keys a')].find(link => link.innerText === 'trips').click()")
    until(lambda: "Where its chunks are" in browser.text())
    assert "2999" in browser.text()
    browser.run("location.hash = '#/queries'")
    until(lambda: "select 'a</pre><script>' as evil" in browser.text())
    assert browser.run("document.title") == "Queries · eau2"
    browser.run("location.hash = '#/runs'")
    until(lambda: "this store is no cluster" in browser.text())
    assert browser.run("document.getElementById('script').closest('section').hidden")
    assert browser.run("document.querySelectorAll('main img, main script').length") == 0
    assert {f"{urlsplit(url).scheme}://{urlsplit(url).netloc}/monitor/" for url in browser.asked} == {address(watched)}
    paths = {urlsplit(url).path.removeprefix("/monitor/") for url in browser.asked}
    assert {f"static/{name}" for name in FILES if name not in ("page.html", "mark.svg")} <= paths
    assert {"events", "who", "sparks", "keys", "frame", "chunks", "runs"} <= paths


def test_names_that_look_like_others_and_frames_without_rows_or_names_are_shown_as_they_are(guarded, browser):
    store, reader = guarded.store, f"sessionStorage.setItem('eau2-token', {READ!r})"
    store.put("\u202elive", b"x")
    store.put("odd/\u202eemarf", {"\u202eeman": ["a\x00b", "two\nlines"], "": [1, 2]})
    store.put("שלום", b"right to left by itself")
    store.put("none", {"number": []})
    browser.tell("Page.navigate", url=f"{address(guarded)}#/keys")
    until(lambda: browser.run("document.getElementById('door')?.open"))  # before, it would be kept for no page
    browser.run(reader)
    browser.tell("Page.reload")
    until(lambda: "\\u202elive" in browser.text())
    assert "שלום" in browser.text()
    assert "\u202e" not in browser.text()
    browser.run("location.hash = '#/frame/' + encodeURIComponent('odd/\u202eemarf')")
    until(lambda: "The chunk is on node-0" in browser.text())
    text = browser.text()
    assert all(shown in text for shown in ("odd/\\u202eemarf", "\\u202eeman", "a\\u0000b", "two\nlines", "(no name)"))
    assert browser.run("document.title") == "odd/\\u202eemarf · eau2"
    browser.run("location.hash = '#/frame/none'")
    until(lambda: "0 chunks" in browser.text())
    assert "Where its chunks are" not in browser.text()
    browser.run("location.hash = '#/frame/%zz'")
    until(lambda: "no value under '%zz'" in browser.text())
    assert not any("URIError" in fault for fault in browser.faults)


def test_a_token_is_entered_and_only_an_admin_ends_a_query(guarded, browser):
    raised = []

    def ask():
        try:
            guarded.store.sql(LONG).to_arrow()
        except QueryError as error:
            raised.append(error)

    def enter(token):
        until(lambda: browser.run("document.getElementById('door')?.open"))
        browser.run(f"document.getElementById('token').value = {token!r}")
        browser.run("document.querySelector('#door button').click()")

    thread = threading.Thread(target=ask)
    thread.start()
    browser.tell("Page.navigate", url=f"{address(guarded)}#/queries")
    enter("somebody else's token")
    until(lambda: "the token is not known here" in browser.text())
    enter(READ)
    until(lambda: "with recursive" in browser.text())
    assert browser.run("document.querySelectorAll('button.cancel').length") == 0
    browser.run(f"sessionStorage.setItem('eau2-token', {ADMIN!r})")
    browser.tell("Page.reload")
    until(lambda: browser.run("document.querySelectorAll('button.cancel').length") == 1)
    browser.run("document.querySelector('button.cancel').click()")
    thread.join(SECONDS_MAX)
    assert len(raised) == 1
    until(lambda: "cancelled" in browser.text())
