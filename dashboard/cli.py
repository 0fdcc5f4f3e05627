"""The `liqheat` command: the estimator's commands, `run` (supervisor), `web` and `estimate` (which draws)."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import time
from difflib import get_close_matches
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Final, Literal, NoReturn

import typer

from estimator import cli as data_commands
from estimator.cli import HOPELESS, fail, progress_bar, read_settings, say
from estimator.errors import LiqheatError, SettingsError
from estimator.memory import keep_little
from estimator.settings import NAMES_TOLD, VENUES, Settings

if TYPE_CHECKING:
    from estimator.redis_server import BundledServer

_RESTART_S: Final = 2.0  # pause before a worker that died is started again
_MOST_CONNECTIONS: Final = 4000  # of the web; a viewer holds two
_OTHER_FILES: Final = 256
_STOP_S: Final = 5.0  # how long a child may take to end before it is killed

app = typer.Typer(
    name="liqheat",
    help="Open, self-hosted liquidation heatmap for crypto perpetual futures.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_show_locals=False,
)

SourceName = Literal["simulated", "recorded", "live", "auto"]


@app.command()
def run(
    source: Annotated[SourceName | None, typer.Option(help="Where market data comes from.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder or file that --source recorded reads.")] = None,
    replay: Annotated[str | None, typer.Option(help="Play a recording as if live, e.g. 60x.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the simulated market.")] = None,
    venues: Annotated[str | None, typer.Option(help="Venues that --source live follows.")] = None,
    markets: Annotated[str | None, typer.Option(help="Coins or symbols to follow, or e.g. 'top 100'.")] = None,
    exchange_base: Annotated[str | None, typer.Option(help="Address that stands in for all venues.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
) -> None:
    """Start everything: the bundled Redis if none is set, one worker and one web server."""
    chosen = {
        "LIQHEAT_SOURCE": source or ("recorded" if data else None),
        "LIQHEAT_RECORDING": data,
        "LIQHEAT_REPLAY": _replay(replay),
        "LIQHEAT_SEED": seed,
        "LIQHEAT_VENUES": venues,
        "LIQHEAT_MARKETS": markets,
        "LIQHEAT_EXCHANGE_BASE": exchange_base,
        "LIQHEAT_HOST": host,
        "LIQHEAT_PORT": port,
    }
    os.environ.update({name: str(value) for name, value in chosen.items() if value is not None})
    settings = read_settings()
    _check_recording(settings)
    _check_alerts(settings)
    _check_port(settings)
    _check_data(settings)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if settings.redis_url is not None:
            _supervise(settings, settings.redis_url)
        else:
            from estimator.redis_server import BundledServer

            while True:  # comes back only when the server has died: the worker fills the next one anew
                with BundledServer(settings.data, settings.redis_memory) as server:
                    _supervise(settings, server.url, server)
                say(f"liqheat: the bundled Redis ended; starting it again in {_RESTART_S:g} s")
                time.sleep(_RESTART_S)
    except KeyboardInterrupt:
        say("stopped")
    except LiqheatError as error:
        fail(str(error))


@app.command()
def web() -> None:
    """Serve the page and the API from the cache (needs REDIS_URL)."""
    keep_little()
    import uvicorn

    from dashboard.app import create_app
    from dashboard.connections import Connection
    from estimator.cache import Cache

    settings = read_settings()
    if settings.redis_url is None:
        fail("web needs REDIS_URL; `liqheat run` starts a server of its own", code=HOPELESS)
    try:
        cache = Cache(settings.redis_url, ttl_s=int(settings.cache_ttl_hours * 3600))
    except SettingsError as error:
        fail(str(error), code=HOPELESS)
    _allow_connections()
    uvicorn.run(
        create_app(settings, cache),
        host=settings.host,
        port=settings.port,
        http=Connection,
        log_level="warning",
        server_header=False,
        forwarded_allow_ips=settings.trusted_proxies,
        timeout_graceful_shutdown=2,
        limit_concurrency=_MOST_CONNECTIONS,  # beyond that a 503 at once
    )


app.command()(data_commands.worker)


@app.command()
def estimate(
    candles: Annotated[Path, typer.Argument(help="Candles: CSV, Parquet, Feather or JSON, .gz too.")],
    open_interest: Annotated[Path, typer.Argument(help="Open interest, in base coins, in the same formats.")],
    market: Annotated[Path, typer.Option(help="JSON: exchange, symbol, contract, brackets, taker_fee_rate.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the grid as Parquet: time, price_low, price_high, long_usd, short_usd.")
    ] = None,
    png: Annotated[Path | None, typer.Option(help="Draw the map as a PNG.")] = None,
    preset: Annotated[
        Literal["balanced", "positions", "high-leverage"], typer.Option(help="Mix of effective leverages.")
    ] = "balanced",
) -> None:
    """Estimate a liquidation map from files, without a server."""
    if out is None and png is None:
        fail("nothing to write: give --out GRID.parquet, --png MAP.png or both", code=HOPELESS)
    _check_output("--out", out, ".parquet")
    _check_output("--png", png, ".png")
    from dashboard.preview import draw_grid
    from estimator.files import estimate_files, read_market, write_grid

    try:
        described = read_market(market)
        _tell_unknown_exchange(market, described.exchange)
        with progress_bar() as report:
            grid, frame = estimate_files(candles, open_interest, described, preset, report)
        if out is not None:
            say(f"{out}: {write_grid(grid, out)} cells")
        if png is not None:
            png.write_bytes(draw_grid(grid, frame, title=described.symbol))
            say(f"{png}: drawn")
    except (LiqheatError, OSError) as error:
        fail(str(error))


def _check_output(option: str, path: Path | None, ending: str) -> None:
    """Refuse what cannot be written, before anything is computed for it."""
    if path is None:
        return
    if path.suffix.lower() != ending:
        fail(f"{option} {path}: the name must end with {ending}, for that is what is written", code=HOPELESS)
    if not path.parent.is_dir():
        fail(f"{option} {path}: there is no folder {path.parent}", code=HOPELESS)
    if path.is_dir():
        fail(f"{option} {path}: is a folder", code=HOPELESS)


def _tell_unknown_exchange(file: Path, name: str) -> None:
    if name not in VENUES:
        close = get_close_matches(name, VENUES, n=1)
        asked = f"; did you mean {close[0]}?" if close else "; its fee is not counted in maintenance margin"
        say(f"liqheat: {file}: exchange {name!r} is none of {', '.join(VENUES)}{asked}")


app.command()(data_commands.backfill)
app.command()(data_commands.calibrate)
app.command()(data_commands.score)
app.command()(data_commands.warm)
app.add_typer(data_commands.alerts, name="alerts")


def _allow_connections() -> None:
    """Ask for as many open files as there may be connections: many systems give a thousand and allow more."""
    if sys.platform == "win32":
        return
    import resource

    soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _MOST_CONNECTIONS + _OTHER_FILES
    if most != resource.RLIM_INFINITY:
        wanted = min(wanted, most)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _replay(text: str | None) -> float | None:
    """Read ``60x`` or ``60``."""
    if text is None:
        return None
    try:
        return float(text.lower().removesuffix("x"))
    except ValueError:
        raise typer.BadParameter(f"got {text!r}, expected a speed such as 60x", param_hint="--replay") from None


def _check_recording(settings: Settings) -> None:
    if settings.source != "recorded":
        if settings.replay is not None:
            fail("--replay plays a recording: give --data FOLDER too", code=HOPELESS)
        return
    if settings.recording is None:
        fail("--source recorded needs a file or folder: --data PATH", code=HOPELESS)
    elif not settings.recording.exists():
        fail(f"--data {settings.recording}: there is no such file or folder", code=HOPELESS)


def _check_alerts(settings: Settings) -> None:
    from estimator.alerts.config import read_config

    try:
        read_config(settings.alerts_file, settings.alerts_urls)
    except LiqheatError as error:
        fail(str(error), code=HOPELESS)


def _check_data(settings: Settings) -> None:
    """Make the data folder, so that it is not the bundled server or the history that finds out."""
    if settings.redis_url is not None and settings.history is not None:
        return
    try:
        settings.data.mkdir(parents=True, exist_ok=True)
        if not os.access(settings.data, os.W_OK | os.X_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        text = f"cannot write to the data folder {settings.data} ({error.strerror}): set LIQHEAT_DATA to another one"
        fail(text, code=HOPELESS)


def _check_port(settings: Settings) -> None:
    with socket.socket(socket.AF_INET6 if ":" in settings.host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((settings.host, settings.port))
        except OSError as error:
            option = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--host"
            where = f"{settings.host}:{settings.port}"
            fail(f"cannot listen on {where}: {error.strerror}; choose another with {option}")
        except UnicodeError:
            fail(f"cannot listen on {settings.host!r}: not the name of a host; choose another with --host")


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def _supervise(settings: Settings, redis_url: str, bundled: BundledServer | None = None) -> None:
    """Run the worker and the web server while Redis runs; a worker that dies is started again.

    A worker that says that it would fail again in the same way ends everything, as does a web server that ends.
    """
    environment = {**os.environ, "REDIS_URL": redis_url, NAMES_TOLD: "1"}
    children: dict[str, subprocess.Popen[bytes]] = {}
    shown = f"[{settings.host}]" if ":" in settings.host else settings.host
    try:
        for name in ("web", "worker"):
            children[name] = _start(name, environment)
        say(f"liqheat: http://{shown}:{settings.port} · {_describe(settings)} · Ctrl-C stops it", "bold")
        while bundled is None or bundled.running:
            time.sleep(0.2)
            code = children["web"].poll()
            if code is not None:
                fail(f"the web server ended with status {code}")
            code = children["worker"].poll()
            if code == HOPELESS:
                fail("the worker cannot go on, for the reason above", code=HOPELESS)
            if code is not None and (bundled is None or bundled.running):
                say(f"liqheat: the worker ended with status {code}; starting it again in {_RESTART_S:g} s")
                time.sleep(_RESTART_S)
                children["worker"] = _start("worker", environment)
    finally:
        _stop(list(children.values()))


def _describe(settings: Settings) -> str:
    if settings.source == "simulated":
        return f"SIMULATED market, seed {settings.seed}: no real prices"
    if settings.source in ("live", "auto"):
        otherwise = "" if settings.source == "live" else ", or a SIMULATED market where none answers"
        return f"LIVE from {settings.venues}{otherwise}"
    speed = f", replayed at {settings.replay:g}x" if settings.replay else ""
    return f"RECORDED market from {settings.recording}{speed}"


def _start(command: str, environment: dict[str, str]) -> subprocess.Popen[bytes]:
    options: dict[str, Any] = {}
    if sys.platform == "linux":
        from estimator.redis_server import end_with_parent

        options["preexec_fn"] = end_with_parent()
    command_line = [sys.executable, "-m", "dashboard.cli", command]
    return subprocess.Popen(command_line, env=environment, **options)  # noqa: S603 - our own commands


def _stop(children: list[subprocess.Popen[bytes]]) -> None:
    for child in children:
        if child.poll() is None:
            child.terminate()
    deadline = time.monotonic() + _STOP_S
    for child in children:
        try:
            child.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


if __name__ == "__main__":
    app()
