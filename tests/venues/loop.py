"""Running a test on an event loop that forgives nothing."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def run(main: Coroutine[Any, Any, _T], timeout_s: float = 30.0) -> _T:
    """Run to the end in debug mode; fail on tasks left behind and on errors that nobody received."""

    async def watched() -> _T:
        complaints: list[dict[str, Any]] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: complaints.append(context))
        result = await asyncio.wait_for(main, timeout_s)
        await asyncio.sleep(0.05)  # connections say good-bye
        left = asyncio.all_tasks() - {asyncio.current_task()}
        gc.collect()  # a future that nobody awaited complains when it goes
        assert not left, f"left behind: {left}"
        assert not complaints, complaints
        return result

    return asyncio.run(watched(), debug=True)
