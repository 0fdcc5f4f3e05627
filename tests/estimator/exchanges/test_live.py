"""Following venues live: refused names, values that jump, and words of venues that mean something else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from estimator.domain import OPEN_INTEREST, Observation
from estimator.errors import BadPayload, Banned, RegionBlocked, UnknownMarket
from estimator.exchanges.clients import errors
from estimator.exchanges.edge import Health, frame, plausible_observations
from estimator.exchanges.live import Levels, subscribing
from estimator.exchanges.translate import Answer, translated

NOW = 1_780_272_000_000


def _told(values: list[float]) -> tuple[list[float], Health]:
    health = Health()
    levels, accepted = Levels(health), []
    for i, value in enumerate(values):
        try:
            accepted.append(levels.accept("bybit:BTC/USDT:USDT", Observation(NOW + i, value), NOW, "tickers").value)
        except BadPayload:
            continue
    return accepted, health


@pytest.mark.parametrize("slip", [5.0, 100_000.0, 0.0, -1.0])
def test_one_value_far_away_is_a_slip(slip: float) -> None:
    accepted, health = _told([1000.0, slip, 1001.0])
    assert accepted == [1000.0, 1001.0]
    assert health.rejected.total() == 1


def test_a_new_level_is_believed_once_it_has_held() -> None:
    accepted, health = _told([1000.0, 1_000_000.0, 1_010_000.0, 1_020_000.0, 1_030_000.0])
    assert accepted == [1000.0, 1_020_000.0, 1_030_000.0]
    assert health.rejected == {("open_interest", "sudden jump"): 2}


def test_slips_that_disagree_never_become_a_level() -> None:
    accepted, _ = _told([1000.0, *(10.0 ** (6 + i) for i in range(12)), 1002.0])
    assert accepted == [1000.0, 1002.0]


def test_markets_are_judged_apart() -> None:
    levels = Levels(Health())
    for market_id, value in (("a", 1.0), ("b", 1e6), ("a", 1.1)):
        assert levels.accept(market_id, Observation(NOW, value), NOW, "tickers").value == value


def test_a_refused_name_is_left_out_and_the_rest_asked_for_again() -> None:
    health, asked = Health(), []

    async def subscribe(names: list[str]) -> None:
        asked.append(names)
        if "kline.1.OLD" in names:
            raise errors.ExchangeError("bybit error:handler not found,topic:kline.1.OLD")

    attempt = subscribing(["kline.1.OLD", "kline.1.OLDER"], subscribe, health)

    async def twice() -> None:
        await attempt()
        await attempt()

    asyncio.run(twice())
    # A name that another begins with is not taken for it.
    assert asked == [["kline.1.OLD", "kline.1.OLDER"], ["kline.1.OLDER"]]
    assert health.rejected == {("subscriptions", "refused by the venue"): 1}


def test_after_a_lost_connection_a_name_that_was_refused_is_asked_for_again() -> None:
    asked: list[list[str]] = []

    async def subscribe(names: list[str]) -> None:
        asked.append(names)
        if len(asked) == 1:
            raise errors.BadRequest("kline.1.OLD is refused")
        raise errors.NetworkError("lost")

    async def story() -> None:
        attempt = subscribing(["kline.1.OLD", "kline.1.BTC"], subscribe, Health())
        await attempt()
        for _ in range(2):
            with pytest.raises(errors.NetworkError):
                await attempt()

    asyncio.run(story())
    assert asked == [["kline.1.OLD", "kline.1.BTC"], ["kline.1.BTC"], ["kline.1.OLD", "kline.1.BTC"]]


def test_with_no_name_left_the_market_is_unknown_and_other_refusals_are_passed_on() -> None:
    async def refuse(names: list[str]) -> None:
        raise errors.ExchangeError(f"no {names[0]}")

    async def attempt(subscribe: Callable[[list[str]], Awaitable[None]]) -> None:
        await subscribing(["A"], subscribe, Health())()

    with pytest.raises(UnknownMarket):
        asyncio.run(attempt(refuse))

    async def fail(_names: list[str]) -> None:
        raise errors.ExchangeError("something else")

    with pytest.raises(errors.ExchangeError):
        asyncio.run(attempt(fail))


def test_a_ban_in_the_clothes_of_a_region_block_is_a_ban() -> None:
    answer = Answer(403, {})
    ban = translated(errors.ExchangeError("bybit GET 403 Forbidden access too frequent."), "kline", answer)
    assert isinstance(ban, Banned)
    assert ban.retry_after_s == 600
    block = translated(
        errors.ExchangeError("403 The Amazon CloudFront distribution is configured to block"), "x", answer
    )
    assert type(block) is RegionBlocked


@pytest.mark.parametrize("absurd", [1e30, 1e17])
def test_a_time_beyond_all_dates_is_left_out_and_counted(absurd: float) -> None:
    health = Health()
    table = frame(OPEN_INTEREST, [(NOW, 1.0), (absurd, 1.0), (-1e30, 1.0)])
    kept = plausible_observations(table, "open_interest", NOW, health)
    assert kept["time"].dt.epoch("ms").to_list()[0] == NOW
    assert health.rejected == {("open_interest", "in the future"): 1}
