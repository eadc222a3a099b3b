"""A node's part in the gossip: it says what it counts, asks others in rounds, and answers them.

For the event loop in which the node's member runs: nothing here happens at the same time as anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Any

from eau2.cluster.peer import Unreachable
from eau2.errors import Eau2Error
from eau2.metrics.gossip import ROUND_SECONDS, Gossip
from eau2.remote.transport import LoopRuntime

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from eau2.metrics.gossip import Answer, Digest, News, Question
    from eau2.metrics.report import Metric
    from eau2.remote.transport import Transport

_logger = logging.getLogger(__name__)
_SILENT = (Unreachable, Eau2Error)  # a partner that does not answer is another's in the next round


class Gossiping:
    """The gossip of node `name`. members: of the cluster, as they are known now. count: the node's figures.

    Whoever makes it runs `saying` and `asking`.
    """

    def __init__(
        self,
        name: str,
        transport: Transport,
        members: Callable[[], Sequence[str]],
        count: Callable[[], Awaitable[Sequence[Metric]]],
    ) -> None:
        self._runtime = LoopRuntime(transport)
        self._members, self._count = members, count
        self._told = ""  # the fault that was logged last
        self._gossip = Gossip(name, chance=self._runtime.chance, started=int(time.time()))

    def __repr__(self) -> str:
        return f"<Gossiping {self._gossip}>"

    async def saying(self) -> None:
        """Count, for ever. By itself: to count may take long, and is no reason not to hear of others."""
        while True:
            if self._gossip.is_due(self._runtime.now()):
                # Where that fails, what was said last grows old, and everybody sees how old it is.
                with contextlib.suppress(Eau2Error, OSError):
                    metrics = await self._count()
                    self._gossip.say(metrics, self._runtime.now())
            await asyncio.sleep(ROUND_SECONDS)

    async def asking(self) -> None:
        """Ask a few others in each round, for ever."""
        while True:
            # Not all nodes at the same moments, however they were started.
            await asyncio.sleep(ROUND_SECONDS * self._runtime.chance.uniform(0.9, 1.1))
            self._gossip.forget(self._runtime.now())
            partners = self._gossip.partners(self._members())
            for failure in await self._runtime.together([self._ask(name) for name in partners]):
                if isinstance(failure, BaseException) and not isinstance(failure, _SILENT):
                    self._tell(failure)

    def _tell(self, failure: BaseException) -> None:
        """Log a fault of ours, or of a partner of another version, once: others are asked all the same."""
        if repr(failure) != self._told:
            self._told = repr(failure)
            _logger.error("gossip has failed", exc_info=failure)

    async def _ask(self, name: str) -> None:
        peer: Any = self._runtime.peer(name)
        answer: Answer = await peer.asked(self._gossip.question(self._runtime.now()))
        self._gossip.hear(answer.news, self._runtime.now())
        if self._gossip.wants(answer):
            await peer.hear_news(self._gossip.lacking(answer.wanted, self._runtime.now()))

    # -- what is asked ------------------------------------------------------------------------------------------------

    async def asked(self, question: Question) -> Answer:
        """As `Gossip.asked`."""
        return self._gossip.asked(question, self._runtime.now())

    async def gossip(self, digest: Digest) -> Answer:
        """As `Gossip.answer`: for drivers, which say nothing."""
        return self._gossip.answer(digest, self._runtime.now())

    async def hear_news(self, news: News) -> None:
        """As `Gossip.hear`."""
        self._gossip.hear(news, self._runtime.now())
