"""Commands on data: the worker and its alerts, the archive, scores, calibration, and kernels compiled ahead.

Heavy imports stand inside the commands: the supervisor and ``--help`` need none of them.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Literal, NoReturn, cast

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from estimator.errors import InputError, LiqheatError, ParameterError, SettingsError, SourceError
from estimator.memory import keep_little
from estimator.settings import Settings, problems, unknown_names
from estimator.units import span_text

if TYPE_CHECKING:
    from estimator.alerts.config import AlertConfig
    from estimator.alerts.targets import Target
    from estimator.archive import Imported
    from estimator.cache import MarketStatus
    from estimator.domain import ContractType, Market
    from estimator.history import History, TableName
    from estimator.model.calibration import Calibration
    from estimator.model.parameters import Parameters

console = Console(stderr=True)
HOPELESS = 2  # exit status: starting again would fail in the same way
_MOST_ABSENT = 10  # files that are named
_MARKET_ID = re.compile(r"[a-z0-9_]+:[A-Za-z0-9]+/[A-Za-z0-9]+:[A-Za-z0-9]+")


def worker(
    shard: Annotated[str, typer.Option(help="Which of how many workers this is, e.g. 0/2.")] = "0/1",
) -> None:
    """Fill the cache from the source and keep it up to date (needs REDIS_URL)."""
    keep_little()
    from estimator.cache import Cache
    from estimator.worker import work

    settings = read_settings()
    if settings.redis_url is None:
        fail("worker needs REDIS_URL; `liqheat run` starts a server of its own", code=HOPELESS)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, _end_at_once)
    try:
        cache = Cache(settings.redis_url, ttl_s=int(settings.cache_ttl_hours * 3600))
        with progress_bar() as report:
            asyncio.run(_work_and_begin_again(work(settings, cache, report, _shard(shard))))
    except (InputError, ParameterError, SettingsError) as error:
        fail(str(error), code=HOPELESS)
    except SourceError as error:
        fail(str(error), code=HOPELESS if settings.source == "recorded" else 1)
    except LiqheatError as error:
        fail(str(error))


async def _work_and_begin_again(work: Coroutine[None, None, None]) -> NoReturn:
    """Work; where that ends, be replaced by a new process with the same command, leaving no thread behind."""
    await work
    console.show_cursor()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606 - the command we are


def _shard(text: str) -> tuple[int, int]:
    """Read ``i/n``."""
    index, _, count = text.partition("/")
    if not (index.isdigit() and count.isdigit() and int(index) < int(count)):
        raise typer.BadParameter(f"got {text!r}, expected i/n with i from 0 to n - 1", param_hint="--shard")
    return int(index), int(count)


def backfill(
    archive: Annotated[str, typer.Option(help="Base address or folder of Binance's public archive.")] = "",
    first: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="First day.")] = None,
    last: Annotated[datetime | None, typer.Option(formats=["%Y-%m-%d"], help="Last day.")] = None,
    symbols: Annotated[str, typer.Option(help="Unified symbols, comma separated.")] = "BTC/USDT:USDT",
) -> None:
    """Bring Binance's public daily archive into history: candles, open interest, ratios and funding."""
    from estimator.archive import BINANCE, Archive
    from estimator.archive import backfill as import_archive
    from estimator.history import History
    from estimator.worker import archived_markets, history_root

    settings = read_settings()
    until = (last or datetime.now(UTC) - timedelta(days=1)).date()
    since = first.date() if first else until - timedelta(days=settings.days)
    _check_days(since, until)
    try:
        markets = archived_markets(symbols)
        if not markets:
            fail(f"--symbols: got {symbols!r}, expected symbols such as BTC/USDT:USDT")
        with progress_bar() as report, closing(Archive(archive or BINANCE)) as files:
            history = History(history_root(settings))
            # Without waiting for downloads: a day is in history whole or not at all.
            signal.signal(signal.SIGINT, lambda *_: _leave("interrupted; the same command goes on where this one was"))
            done = import_archive(files, history, markets, since, until, report)
    except LiqheatError as error:
        fail(str(error))
    _tell_imported(done)


def _check_days(first: date, last: date) -> None:
    yesterday = datetime.now(UTC).date() - timedelta(days=1)
    if last > yesterday:
        fail(f"--last {last}: the archive ends yesterday, {yesterday}")
    if first > last:
        fail(f"--first {first}: is after the last day, {last}")


def _tell_imported(done: Imported) -> None:
    """Say what an import did; end with status 1 where a file is damaged or there was none at all."""
    say(
        f"{done.rows} new rows from {done.files} files; {done.complete} files complete already, "
        f"{len(done.missing)} absent"
    )
    for path in done.missing[:_MOST_ABSENT]:
        say(f"absent: {path}")
    if len(done.missing) > _MOST_ABSENT:
        say(f"… and {len(done.missing) - _MOST_ABSENT} more")
    for path, rows in done.short.items():
        say(f"short: {path}: {rows} rows are not in it")
    for path, problem in done.damaged.items():
        say(f"damaged: {path}: {problem}")
    if done.missing and not (done.files or done.complete or done.damaged):
        fail("the archive has none of the files asked for: check symbols, days and archive")
    if done.damaged:
        raise typer.Exit(1)


def score(
    data: Annotated[
        Path | None, typer.Option(help="Folder of recorded positions, prints and totals; without it only simulated.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for scores.json, scores.md and the plots.")] = Path("scores"),
    part: Annotated[
        Literal["all", "tune", "report"], typer.Option(help="The first two thirds of each set, the last, or all.")
    ] = "all",
) -> None:
    """Score the book and the baselines on real data and on the simulated market, and write a report."""
    from concurrent.futures import ThreadPoolExecutor

    from estimator.scoring.cases import read_cases
    from estimator.scoring.report import terminal_tables, write_report
    from estimator.scoring.run import MODELS, run
    from estimator.scoring.summary import summarise

    if data is not None and not data.is_dir():
        fail(f"--data {data}: no such folder")
    signal.signal(signal.SIGINT, lambda *_: _leave("stopped"))  # nothing is written before the end
    try:
        with progress_bar() as report, ThreadPoolExecutor() as executor:
            cases = [case.part(part) for case in read_cases(data, report=lambda done, what: report(done * 0.3, what))]
            scored = run(MODELS, cases, executor, lambda done, what: report(0.3 + done * 0.6, what))
            report(0.9, "drawing intervals")
            found = summarise(scored)
            report(1.0, "scored")
    except LiqheatError as error:
        fail(str(error))
    tables = Console()
    for table in terminal_tables(found):
        tables.print(table)
    for path in write_report(found, out):
        say(f"wrote {path}")


def _leave(words: str) -> NoReturn:
    """End as Ctrl-C asks for, without waiting for threads that download or compute."""
    console.show_cursor()
    say(f"liqheat: {words}")
    os._exit(130)


def calibrate(
    *,
    markets: Annotated[
        str, typer.Option(help="Markets such as binance:BTC/USDT:USDT, comma separated; all with prints by default.")
    ] = "",
    days: Annotated[float, typer.Option(help="How far back data are taken, in days.", min=1.0)] = 60.0,
    record_only: Annotated[bool, typer.Option(help="Keep what is found for the record; no market goes by it.")] = False,
    reset: Annotated[bool, typer.Option(help="Let the markets go by the defaults again.")] = False,
) -> None:
    """Fit the assumptions of live markets to their own liquidations in history, and offer them to the worker."""
    from estimator.history import History
    from estimator.model.parameters import Parameters
    from estimator.refit import markets_with_prints
    from estimator.worker import history_root

    settings = read_settings()
    named = [m.strip() for m in markets.split(",") if m.strip()]
    for market_id in named:
        if not _MARKET_ID.fullmatch(market_id):
            fail(f"--markets: got {market_id!r}, expected venue:SYMBOL such as binance:BTC/USDT:USDT")
    if reset and not named:
        fail("--reset needs --markets: say which ones go by the defaults again")
    history, default = History(history_root(settings)), Parameters.preset(settings.preset)
    try:
        wanted = named or markets_with_prints(history, days)
        if not wanted:
            fail(f"history has no prints of the last {days:g} days: without prints there is nothing to fit to")
        if reset:
            _reset(history, wanted, default)
            return
        done = _calibrate_all(settings, history, wanted, default, days=days, offer=False if record_only else None)
    except LiqheatError as error:
        fail(str(error))
    if not done:
        raise typer.Exit(1)


def _reset(history: History, wanted: Sequence[str], default: Parameters) -> None:
    """Offer the defaults to the markets that history has anything of; end with status 1 where one is not there."""
    from estimator.refit import reset

    tables: tuple[TableName, ...] = ("parameters", "candles", "liquidations")
    known = {m: any(history.last_time(table, m) is not None for table in tables) for m in wanted}
    for market_id, there in known.items():
        if there:
            reset(history, market_id, default)
        say(f"{market_id}: " + ("the defaults are offered to its worker" if there else "there is no history of it"))
    if not all(known.values()):
        raise typer.Exit(1)


def _calibrate_all(
    settings: Settings,
    history: History,
    wanted: Sequence[str],
    default: Parameters,
    *,
    days: float,
    offer: bool | None,
) -> int:
    """Calibrate markets one after the other and say how each went; return how many did."""
    from estimator.refit import refit

    told: list[str] = []
    done = 0
    with progress_bar() as report:
        for at, market_id in enumerate(wanted):

            def tell(share: float, what: str, at: int = at, market_id: str = market_id) -> None:
                report((at + share) / len(wanted), f"{market_id}: {what}")

            try:
                market = _known_market(settings, market_id)
                found = refit(history, market, default, tell, days=days, offer=offer)
            except InputError as error:
                told.append(f"{market_id}: not calibrated: {error.problem}")
                continue
            done += 1
            told.append(f"{market_id}: {_in_words(found, offer=offer)}")
        report(1.0, f"{done} of {len(wanted)} markets calibrated")
    for line in told:
        say(line)
    return done


def _in_words(found: Calibration, *, offer: bool | None) -> str:
    interval = "" if found.gain_low is None else f" [{found.gain_low:+.3f}, {found.gain_high:+.3f}]"
    scores = (
        f"{found.fitted} prints fitted, {found.held} held out; bits there {found.before:.3f} before, "
        f"{found.after:.3f} after, {found.gain:+.3f}{interval}"
    )
    if offer is False:
        return f"{scores}; for the record only"
    return f"{scores}; " + ("offered to its worker" if found.gain > 0 else "no better: the market stays as it is")


alerts = typer.Typer(help="What alerts are configured, and whether they arrive.", no_args_is_help=True)


@alerts.command()
def check() -> None:
    """Check what alerts are configured, and print rules and targets, without credentials."""
    config, targets = _alerts()
    for rule in config.rule:
        often = f"at most every {span_text(60 * rule.cool_down_minutes)}, from severity {rule.min_severity} on"
        say(f"{rule.title}: told when {rule.when()}; {often}")
    for quiet in config.quiet:
        say(f"quiet from {quiet.start:%H:%M} to {quiet.end:%H:%M} {quiet.zone.key}, unless {quiet.unless}")
    for target in targets:
        say(f"to {target.label}: {target.service}")
    if not targets:
        say("to nobody: alerts are listed on the page")


@alerts.command("test")
def send_test(
    rule: Annotated[
        str | None, typer.Option(help="Name of a rule, told in the message; without it all of them.")
    ] = None,
) -> None:
    """Send one message to every target and print what becomes of it; fails where one does not arrive."""
    config, targets = _alerts()
    told = {r.title: r.when() for r in config.rule if rule in (None, r.title)}
    if not told:
        fail(f"--rule {rule}: there is no such rule; there are {', '.join(r.title for r in config.rule)}")
    if not targets:
        fail("there is nobody to send to: set LIQHEAT_ALERTS_URLS, or targets in LIQHEAT_ALERTS_FILE")
    text = "\n".join(f"- {name}: told when {sentence}" for name, sentence in told.items())
    arrived = True
    for target in targets:
        outcome = target.send("Test of liqheat's alerts", text, "info")
        say(f"{target.label}: {outcome.name}" + (f" ({outcome.why})" if outcome.why else ""))
        arrived = arrived and outcome.name == "sent"
    raise typer.Exit(0 if arrived else 1)


def _alerts() -> tuple[AlertConfig, list[Target]]:
    """Return what is configured, or end the command with what is wrong with it."""
    from estimator.alerts.config import read_config
    from estimator.alerts.targets import make_targets

    settings = read_settings()
    try:
        config = read_config(settings.alerts_file, settings.alerts_urls)
        if config is None:
            raise SettingsError("no alerts are configured: set LIQHEAT_ALERTS_FILE or LIQHEAT_ALERTS_URLS")
        return config, make_targets(config.targets)
    except LiqheatError as error:
        fail(str(error))


def _known_market(settings: Settings, market_id: str) -> Market:
    """Return a market as a worker has told of it, else with the rule that stands in for its tiers."""
    from estimator.cache import Cache
    from estimator.domain import LeverageBracket, Market
    from estimator.exchanges.binance_payloads import rule_brackets

    exchange, _, symbol = market_id.partition(":")
    statuses: list[MarketStatus] = []
    if settings.redis_url is not None:
        with closing(Cache(settings.redis_url)) as cache:
            statuses = cache.get_statuses()
    for status in statuses:
        if status.id == market_id and status.maintenance_margin_rate is not None:
            tier = LeverageBracket(0.0, status.max_leverage, status.maintenance_margin_rate)
            contract = cast("ContractType", status.contract)
            return Market(exchange, symbol, contract, (tier,), taker_fee_rate=status.maintenance_fee_rate or 0.0)
    contract = "inverse" if "/USD:" in symbol else "linear"
    return Market(exchange, symbol, contract, rule_brackets(symbol.split("/")[0], contract).brackets)


def _end_at_once(_signal: int, _frame: FrameType | None) -> NoReturn:
    """End without waiting for threads that compute: what the worker holds is made anew, what arrived is in Redis."""
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
    """Read the environment and ``.env``; what cannot be used ends the command, what nobody knows is told."""
    try:
        settings, unknown = Settings(), unknown_names()
    except ValidationError as error:
        for problem in problems(error):
            say_failure(problem)
        raise typer.Exit(HOPELESS) from None
    except (OSError, UnicodeDecodeError) as error:
        fail(f".env cannot be read: {getattr(error, 'strerror', None) or error}", code=HOPELESS)
    for name, known in unknown.items():
        say(f"liqheat: {name} is no setting and changes nothing" + (f"; did you mean {known}?" if known else ""))
    return settings


def say(text: str, style: str | None = None) -> None:
    """Print one line for people, whole even where no terminal tells its width."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def fail(message: str, *, code: int = 1) -> NoReturn:
    """Print an error for people and exit."""
    say_failure(message)
    raise typer.Exit(code)


def say_failure(message: str) -> None:
    """Print an error for people."""
    say(f"liqheat: {message}", "bold red" if console.is_terminal else None)


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
