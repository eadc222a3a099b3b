"""Asks axe-core what of a page people cannot use who see it badly, hear it, or type only.

axe-core is no part of this repository: `npm pack axe-core`, and EAU2_AXE=.../package/axe.min.js.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.monitor.browser import Browser

AXE = os.environ.get("EAU2_AXE", "")
WINDOWS = {  # width, height, dark, phone
    "wide, by day": (1280, 900, False, False),
    "wide, by night": (1280, 900, True, False),
    "phone, by day": (390, 844, False, True),
    "phone, by night": (390, 844, True, True),
}


def faults(browser: Browser) -> list[str]:
    """Return what axe-core finds in what is shown now, with the elements."""
    if not browser.run("!!window.axe"):
        browser.run(f"{Path(AXE).read_text()}; 0")
    said = browser.run("axe.run(document).then(({passes, violations}) => JSON.stringify([passes.length, violations]))")
    passed, found = json.loads(said)
    assert passed > 10, "it has judged something"
    return [
        f"{each['impact']} {each['id']}: {each['help']}: {node['target']} {node['html'][:200]}"
        for each in found
        for node in each["nodes"]
    ]
