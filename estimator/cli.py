"""Commands on data: the worker, and compiling the kernels ahead of time.

Heavy imports stand inside the commands: the supervisor and ``--help`` need none of them.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from estimator.errors import LiqheatError
from estimator.settings import Settings

console = Console(stderr=True)


def worker() -> None:
    """Fill the cache from the source and keep it up to date (needs REDIS_URL)."""
    from estimator.cache import Cache
    from estimator.pipeline import build_source, follow

    settings = read_settings()
    if settings.redis_url is None:
        fail("worker needs REDIS_URL; `liqheat run` starts a server of its own")
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    try:
        cache = Cache(settings.redis_url, ttl_s=int(settings.cache_ttl_hours * 3600))
        with progress_bar() as report:
            asyncio.run(follow(build_source(settings), cache, settings.preset, report))
    except LiqheatError as error:
        fail(str(error))


def _end_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End without waiting for threads that compute: whatever the worker holds is made anew from its source."""
    console.show_cursor()
    os._exit(0)


def warm() -> None:
    """Compile the kernels into the on-disk cache, so that the first start is as fast as the others."""
    from estimator.exchanges.simulated import compile_kernels
    from estimator.model.book import compile_book

    with progress_bar() as report:
        report(0.0, "compiling the position book")
        compile_book()
        report(0.5, "compiling the simulated market")
        compile_kernels()
        report(1.0, "kernels compiled")


def read_settings() -> Settings:
    """Read the environment; a wrong value ends the command with its name and what was given."""
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        fail(f"setting {name}: {first['msg']} (got {first.get('input')!r})")


def say(text: str, style: str | None = None) -> None:
    """Print one line for people, whole even where no terminal tells its width."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(message: str) -> NoReturn:
    """Print an error for people and exit with status 1."""
    say(f"liqheat: {message}", "bold red" if console.is_terminal else None)
    raise typer.Exit(1)


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """Progress bar on a terminal; plain lines, one per stage, elsewhere."""
    if not console.is_terminal:
        told: set[str] = set()

        def tell(done: float, text: str) -> None:
            if text not in told:
                told.add(text)
                say(f"{done:4.0%} {text}")

        yield tell
        return
    columns = (
        TextColumn("{task.description:34}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("starting", total=1.0)

        def show(done: float, text: str) -> None:
            progress.update(task, completed=done, description=text)
            if done >= 1.0:
                progress.stop()

        yield show
