"""Commands on data: the worker, and compiling the kernels ahead of time.

Heavy imports stand inside the commands: the supervisor and ``--help`` need none of them.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        cache = Cache(settings.redis_url, ttl_s=int(settings.cache_ttl_hours * 3600))
        with progress_bar() as report:
            asyncio.run(follow(build_source(settings), cache, settings.preset, report))
    except KeyboardInterrupt:
        return
    except LiqheatError as error:
        fail(str(error))


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


def fail(message: str) -> NoReturn:
    """Print an error for people and exit with status 1."""
    console.print(f"[bold red]liqheat:[/] {message}", highlight=False)
    raise typer.Exit(1)


@contextmanager
def progress_bar() -> Iterator[Callable[[float, str], None]]:
    """Progress bar on a terminal; plain lines, one per stage, elsewhere."""
    if not console.is_terminal:
        said: set[str] = set()

        def say(done: float, text: str) -> None:
            if text not in said:
                said.add(text)
                console.print(f"{done:4.0%} {text}", highlight=False)

        yield say
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
