"""What is configured holds as written; what cannot be is named with its file, key, value and what is allowed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from estimator.alerts.config import DEFAULT_RULES, AlertConfig, ClusterRule, PrintRule, read_config
from estimator.errors import SettingsError

HIDDEN = "s3cr3t"
NIGHT = '[[quiet]]\nfrom = "23:00"\nto = "07:00"\nzone = "Europe/Berlin"\n'


def read(folder: Path, text: str, urls: str | None = None) -> AlertConfig:
    file = folder / "alerts.toml"
    file.write_text(text)
    config = read_config(file, urls)
    assert config is not None
    return config


def test_without_file_and_urls_there_are_no_alerts() -> None:
    assert read_config(None, None) is None
    assert read_config(None, "  ") is None


def test_urls_alone_mean_the_default_rules(tmp_path: Path) -> None:
    config = read_config(None, "json://a\n  json://b ")
    assert config is not None
    assert (config.targets, config.rule) == (("json://a", "json://b"), DEFAULT_RULES)
    assert {rule.kind for rule in DEFAULT_RULES} == set(AlertConfig.KINDS)
    assert read(tmp_path, "").rule == DEFAULT_RULES


def test_a_file_says_all_there_is_to_say(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        'targets = ["json://a"]\n[[rule]]\nkind = "cluster"\nmarkets = ["BTC"]\ndistance_percent = 2\n'
        '[[rule]]\nkind = "print"\nname = "big"\nvenues = ["okx"]\nmin_usd = 2e6\nmin_severity = "critical"\n'
        f"[digest]\nover = 1\nwithin_seconds = 0.5\n{NIGHT}",
        "json://b",
    )
    assert config.targets == ("json://a", "json://b")
    near, big = config.rule
    assert isinstance(near, ClusterRule)
    assert isinstance(big, PrintRule)
    assert (near.title, near.markets, near.distance_percent, near.cool_down_ms) == ("cluster", ("BTC",), 2.0, 7_200_000)
    assert (big.title, big.venues, big.min_usd, big.min_severity) == ("big", ("okx",), 2e6, "critical")
    assert near.when() == "the price of BTC is within 2 % of a cluster of at least 1 % of open interest"
    assert big.when() == "a liquidation on OKX is at least $2.00M"
    assert (config.digest.over, config.quiet[0].zone) == (1, ZoneInfo("Europe/Berlin"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("rules = 1", ("rules", "no such key", "digest, quiet, rule, targets")),
        ('[[rule]]\nkind = "cluster"\ndistance = 1', ("rule 1: distance", "no such key", "distance_percent")),
        ('[[rule]]\nkind = "cluster"\ndistance_percent = "1"', ("rule 1: distance_percent", "'1'", "a number")),
        (
            '[[rule]]\nkind = "print"\n[[rule]]\nkind = "cluster"\ndistance_percent = 99',
            ("rule 2", "99", "equal to 15"),
        ),
        ('[[rule]]\nkind = "news"', ("rule 1: kind", "'news'", "cluster, overheated, squeeze, washout, print, stale")),
        ('[[rule]]\nname = "x"', ("rule 1: kind", "None")),
        (
            '[[rule]]\nkind = "print"\nmin_severity = "bad"',
            ("min_severity", "'bad'", "'info', 'warning' or 'critical'"),
        ),
        ('[[rule]]\nkind = "print"\nmarkets = "BTC"', ("markets", "'BTC'", "a list")),
        ('[[rule]]\nkind = "print"\nvenues = ["Binance!"]', ("venues 1", "'Binance!'", "short name")),
        ('[[rule]]\nkind = "print"\nname = "<script>"', ("name", "<script>", "short name")),
        ('[[rule]]\nkind = "print"\n[[rule]]\nkind = "print"', ("rule 2: name", "'print'", "no other rule has")),
        ('[[quiet]]\nfrom = "23:00"', ("quiet 1: to", "missing")),
        ('[[quiet]]\nfrom = "23:00"\nto = "25:00"', ("quiet 1: to", "'25:00'", "a time such as")),
        ('[[quiet]]\nfrom = "23:00"\nto = "23:00"', ("quiet 1", "from and to that differ")),
        ('[[quiet]]\nfrom = "23:00"\nto = "07:00"\nzone = "Mars/Base"', ("zone", "'Mars/Base'", "Europe/Berlin")),
        ("[digest]\nover = 0", ("digest: over", "0", "equal to 1")),
        ("rule = []", ("rule", "[]", "at least one")),
        ("rule =", ("not TOML",)),
    ],
)
def test_what_cannot_be_is_named(tmp_path: Path, text: str, parts: tuple[str, ...]) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    message = str(caught.value)
    assert message.startswith(str(tmp_path / "alerts.toml"))
    assert "\n" not in message
    for part in parts:
        assert part in message


@pytest.mark.parametrize("text", [f'targets = "json://u:{HIDDEN}@h"', f'targets = ["json://u:{HIDDEN}@h", 1]'])
def test_no_message_holds_a_target(tmp_path: Path, text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    assert "targets" in str(caught.value)
    assert HIDDEN not in str(caught.value)
    assert HIDDEN not in repr(read(tmp_path, "", f"json://u:{HIDDEN}@h"))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"LIQHEAT_ALERTS_FILE .*gone\.toml: No such file"):
        read_config(tmp_path / "gone.toml", None)


@pytest.mark.parametrize(
    ("berlin", "quiet"),
    [("22:59", False), ("23:00", True), ("00:00", True), ("06:59", True), ("07:00", False), ("12:00", False)],
)
def test_a_quiet_time_crosses_midnight_in_its_own_zone(tmp_path: Path, berlin: str, *, quiet: bool) -> None:
    config = read(tmp_path, NIGHT)
    for day in ("2026-01-15", "2026-07-15"):  # winter and summer time
        moment = datetime.fromisoformat(f"{day}T{berlin}").replace(tzinfo=ZoneInfo("Europe/Berlin")).astimezone(UTC)
        assert config.is_quiet(moment, "warning") is quiet
        assert not config.is_quiet(moment, "critical")


def test_a_quiet_night_belongs_to_the_day_it_begins_on(tmp_path: Path) -> None:
    config = read(tmp_path, NIGHT + 'days = ["fri"]\nunless = "never"\n')
    friday = datetime(2026, 1, 16, tzinfo=ZoneInfo("Europe/Berlin"))
    held = [config.is_quiet(friday + timedelta(hours=h), "critical") for h in (1, 22.5, 23.5, 25, 30.5, 31.5, 48.5)]
    assert held == [False, False, True, True, True, False, False]


@given(
    start=st.times().map(lambda t: t.strftime("%H:%M")),
    end=st.times().map(lambda t: t.strftime("%H:%M")),
    moment=st.datetimes(min_value=datetime(2020, 1, 1), max_value=datetime(2030, 1, 1)).map(  # noqa: DTZ001 - set next
        lambda d: d.replace(tzinfo=UTC)
    ),
)
def test_a_time_is_quiet_in_exactly_one_of_two_halves_of_the_day(start: str, end: str, moment: datetime) -> None:
    if start == end:
        return
    day, night = (
        AlertConfig.model_validate({"quiet": [{"from": a, "to": b, "unless": "never"}]})
        for a, b in ((start, end), (end, start))
    )
    assert day.is_quiet(moment, "info") is not night.is_quiet(moment, "info")
