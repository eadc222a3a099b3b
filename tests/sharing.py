"""Which of the processes that share the tests runs which."""

import re

from xdist.scheduler import LoadScopeScheduling

_ON_RAY = re.compile(r"[/_]ray[_/].*::")
_TOGETHER = re.compile(r"/test_(tpch|random)\.py::")  # what their tests share takes long to start
_OTHER_RAY = re.compile(r"/test_(launch|address|machines)\.py::")  # they start clusters of their own, one by one


class Sharing(LoadScopeScheduling):
    """Tests go one by one to the process that is free, so that none is left with the last long ones. Those in files on
    Ray all go to the first, which begins with them: there is one cluster, and it mostly waits for that. At most one
    other runs meanwhile: several would take the processors from each other, until none answers in time."""

    def _split_scope(self, nodeid: str) -> str:
        if is_on_ray(nodeid):
            return "on Ray"
        if _OTHER_RAY.search(nodeid):
            return "on Ray of their own"
        return nodeid.partition("::")[0] if _TOGETHER.search(nodeid) else nodeid


def is_on_ray(nodeid: str) -> bool:
    return _ON_RAY.search(nodeid) is not None
