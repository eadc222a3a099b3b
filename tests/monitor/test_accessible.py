"""axe-core finds no fault in any view: by day and by night, on a desk and on a phone."""

import os

import pytest
from tests.monitor.accessible import AXE, WINDOWS, faults
from tests.monitor.browser import CHROMIUM, Browser
from tests.monitor.test_browser import address
from tests.until import until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium is installed here"),
    pytest.mark.skipif(not os.path.isfile(AXE), reason="EAU2_AXE names no axe.min.js: see tests/monitor/accessible.py"),
]

VIEWS = {  # what is to be seen before it is judged
    "#/": "Who came and went",
    "#/node/node-1": "Nothing in the last hour",
    "#/node/": "This server",
    "#/keys/": "trips",
    "#/frame/trips": "Each chunk",
    "#/queries": "The last that have run",
    "#/query/1": "Plan",
    "#/nothing": "There is no such view",
}


@pytest.mark.parametrize("nodes", [3])
def test_no_view_has_a_fault(watched, tmp_path):
    store = watched.store
    store.put_many({f"more/{number}": b"x" for number in range(3)})
    store.sql("select vendor, count(*) from trips group by vendor").to_arrow()
    store.node._members.fail(store.nodes[2])
    found = []
    with Browser(tmp_path / "profile") as browser:
        for window, (width, height, dark, phone) in WINDOWS.items():
            browser.look_like(width, height, dark=dark, phone=phone)
            for view, seen in VIEWS.items():
                browser.tell("Page.navigate", url="about:blank")
                browser.tell("Page.navigate", url=f"{address(watched)}{view}")
                until(lambda: seen in browser.text())  # noqa: B023
                found += [f"{window}, {view}: {fault}" for fault in faults(browser)]
                wide = browser.run("document.documentElement.scrollWidth - document.documentElement.clientWidth")
                found += [f"{window}, {view}: {wide} pixels wider than the window"] if wide > 0 else []
        assert found == []
