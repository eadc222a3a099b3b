"""An event loop in a thread of its own: what runs there takes turns, and is in nobody's way elsewhere."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import threading
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

Value = TypeVar("Value")


class LoopThread:
    """A thread called `name` that runs an event loop, from construction to `stop`."""

    def __init__(self, name: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._ended = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_forever()
        finally:
            self._loop.close()

    def submit(self, coroutine: Coroutine[Any, Any, Value]) -> concurrent.futures.Future[Value]:
        """Run `coroutine` there. After `stop` the future is cancelled."""
        future: concurrent.futures.Future[Value] = concurrent.futures.Future()
        if not self._hand_over(self._start, coroutine, future):
            coroutine.close()
            future.cancel()
        return future

    def call(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Call `function` there, soon. After `stop`: not at all."""
        self._hand_over(function, *arguments)

    def _hand_over(self, function: Callable[..., Any], *arguments: Any) -> bool:
        with contextlib.suppress(RuntimeError):  # the loop was closed just now
            if not self._ended:
                self._loop.call_soon_threadsafe(function, *arguments)
                return True
        return False

    def _start(self, coroutine: Coroutine[Any, Any, Value], future: concurrent.futures.Future[Value]) -> None:
        if self._ended:
            coroutine.close()
            future.cancel()
            return
        task = self._loop.create_task(coroutine)

        def end(task: asyncio.Task[Value]) -> None:
            if not future.set_running_or_notify_cancel():
                return
            if task.cancelled():
                future.set_exception(concurrent.futures.CancelledError())
            elif (error := task.exception()) is not None:
                future.set_exception(error)
            else:
                future.set_result(task.result())

        task.add_done_callback(end)

    def stop(self, timeout_seconds: float) -> None:
        """Cancel all that runs there, and end the thread; wait for that at most so long. Idempotent."""
        self._hand_over(self._end)
        if self._thread is not threading.current_thread():
            self._thread.join(timeout_seconds)

    def _end(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._last_task = self._loop.create_task(self._last())

    async def _last(self) -> None:
        while tasks := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
        self._loop.stop()
