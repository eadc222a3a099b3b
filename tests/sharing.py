"""Which of the processes that share the tests runs which."""

import re

from xdist.scheduler import LoadScopeScheduling

_ON_RAY = re.compile(r"[/_]ray[_/].*::")
_TOGETHER = re.compile(r"/test_(launch|address|tpch|random)\.py::")  # what their tests share takes long to start


class Sharing(LoadScopeScheduling):
    """Tests go one by one to the process that is free, so that none is left with the last long ones. Those in files on
    Ray all go to the first, which begins with them: there is one cluster, and it mostly waits for that."""

    def _split_scope(self, nodeid: str) -> str:
        if is_on_ray(nodeid):
            return "on Ray"
        return nodeid.partition("::")[0] if _TOGETHER.search(nodeid) else nodeid


def is_on_ray(nodeid: str) -> bool:
    return _ON_RAY.search(nodeid) is not None
