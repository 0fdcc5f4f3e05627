"""Messages reach every target that can be reached, whatever the others do; every attempt is kept, no address is."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import redis

from estimator.alerts.config import Digest
from estimator.alerts.delivery import ATTEMPTS, MAX_WAITING, Note, Post, gather, in_one
from estimator.alerts.targets import _why, make_targets
from estimator.cache import Cache
from estimator.errors import SettingsError
from tests.estimator.alerts.conftest import Sink
from tests.waiting import within

HIDDEN = "s3cr3t"
AT_ONCE = Digest(over=3, within_seconds=0)


def note(cache: Cache, title: str = "BTC: price near a cluster", severity: str = "info") -> Note:
    alert_id = cache.alerts.add({"rule": "near", "severity": severity, "title": title})
    return Note(alert_id, title, "why", severity)  # type: ignore[arg-type]  # one of three


@contextmanager
def logged() -> Iterator[list[str]]:
    """What reaches whoever runs this: everything at the root, of every logger that passes anything on."""
    said: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: said.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger().addHandler(handler)
    try:
        yield said
    finally:
        logging.getLogger().removeHandler(handler)


def outcomes(cache: Cache) -> dict[str, tuple[str, int]]:
    """Last outcome by target of the newest alert, and after how many attempts."""
    (newest,) = cache.alerts.recent(1)
    return {d["target"]: (d["outcome"], d["attempt"]) for d in newest["deliveries"]}


def test_a_message_arrives_as_it_was_written(cache: Cache, sink: Sink) -> None:
    with Post(make_targets([sink.url("ok")]), cache.alerts, AT_ONCE) as post:
        post.put(note(cache, severity="critical"))
        assert within(10, lambda: outcomes(cache) == {"json": ("sent", 1)})
    (message,) = sink.at("/ok")
    assert (message["title"], message["message"], message["type"]) == ("BTC: price near a cluster", "why", "failure")


def test_what_fails_is_tried_again_and_every_attempt_is_counted(cache: Cache, sink: Sink) -> None:
    with Post(make_targets([sink.url("flaky"), sink.url("500")]), cache.alerts, AT_ONCE, first_s=0.02) as post:
        post.put(note(cache))
        assert within(20, lambda: outcomes(cache) == {"json": ("sent", 3), "json 2": ("failed", ATTEMPTS)})
    assert len(sink.at("/500")) == ATTEMPTS
    counts = cache.alerts.counts()
    assert counts["delivery", "json", "failed"] == 2
    assert counts["delivery", "json 2", "failed"] == ATTEMPTS


def test_a_hung_target_holds_up_neither_the_others_nor_who_posts(cache: Cache, sink: Sink) -> None:
    targets = make_targets([sink.url("hang"), "json://127.0.0.1:1/", sink.url("ok")])
    with Post(targets, cache.alerts, AT_ONCE, first_s=0.02) as post:
        began = time.monotonic()
        for _ in range(3):
            post.put(note(cache))
        assert time.monotonic() - began < 1.0
        assert within(10, lambda: len(sink.at("/ok")) == 3)
        assert len(sink.at("/hang")) == 1
        began = time.monotonic()
    assert time.monotonic() - began < 1.0  # nor who ends


def test_an_attempt_takes_no_longer_than_it_may(sink: Sink) -> None:
    (target,) = make_targets([sink.url("hang")])
    began = time.monotonic()
    assert target.send("t", "x", "info", wait_s=0.5).name == "timed out"
    assert time.monotonic() - began < 3.0
    sink.release.set()


def test_the_status_of_a_refusal_is_told_and_nothing_else_of_it(sink: Sink) -> None:
    (target,) = make_targets([sink.url("500", HIDDEN)])
    assert target.send("t", "x", "info") == ("failed", "HTTP 500")
    (nobody,) = make_targets([f"json://user:{HIDDEN}@127.0.0.1:1/"])
    assert nobody.send("t", "x", "info") == ("failed", "connection refused")


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ([], "not delivered; Apprise gives no reason"),
        ([("DEBUG", "Payload: error=404, timed out")], "not delivered; Apprise gives no reason"),
        ([("WARNING", "Failed to send: error=403.")], "HTTP 403"),
        ([("DEBUG", f"Socket Exception: url: /{HIDDEN} ([Errno -2] Name or service not known)")], "no such host"),
        ([("DEBUG", "Socket Exception: (535, b'5.7.8 no')")], "the mail server did not accept user or password"),
        ([("DEBUG", "Socket Exception: [SSL: CERTIFICATE_VERIFY_FAILED]")], "its certificate was not accepted"),
        ([("DEBUG", f"Socket Exception: {HIDDEN}")], "not delivered; Apprise gives no reason"),
    ],
)  # fmt: skip
def test_a_cause_is_told_in_words_of_ours(said: list[tuple[str, str]], why: str) -> None:
    assert _why(said) == why


def test_no_password_is_logged_kept_or_shown(
    cache: Cache, url: str, sink: Sink, capfd: pytest.CaptureFixture[str]
) -> None:
    urls = [sink.url("500", HIDDEN), f"json://user:{HIDDEN}@127.0.0.1:1/{HIDDEN}?-token={HIDDEN}"]
    targets = make_targets(urls)
    with logged() as said, Post(targets, cache.alerts, AT_ONCE, first_s=0.02) as post:
        post.put(note(cache))
        assert within(20, lambda: len(said) == 2)
    assert sorted(said) == [
        "1 alerts did not reach json 2: failed (connection refused)",
        "1 alerts did not reach json: failed (HTTP 500)",
    ]
    with redis.Redis.from_url(url) as raw:
        kept = b"".join(raw.dump(key) or b"" for key in raw.scan_iter("*"))
    for text in ("".join(capfd.readouterr()), repr(targets), repr(kept), repr(cache.alerts.recent(9))):
        assert HIDDEN not in text


@pytest.mark.parametrize("url", [f"nosuch://u:{HIDDEN}@h", f"u:{HIDDEN}@h", f"discord://{HIDDEN}"])
def test_a_target_apprise_does_not_take_is_named_by_place_and_scheme(url: str) -> None:
    with pytest.raises(SettingsError, match="target 2 of alerts") as caught:
        make_targets(["json://localhost", url])
    assert HIDDEN not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (f"nosuch://{HIDDEN}", "(nosuch): Apprise knows no service by that scheme; see"),
        (
            f"tgram://{HIDDEN}/1",
            "(tgram): not an address that Apprise accepts, whose form is tgram://{bot_token} or ",
        ),
        (f"json://h/{HIDDEN},json://h", "; several are separated by blanks in LIQHEAT_ALERTS_URLS"),
    ],
)
def test_an_unknown_scheme_is_told_from_a_malformed_address(url: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        make_targets([url])
    assert said in str(caught.value)
    assert HIDDEN not in str(caught.value)


def test_many_at_once_are_one_message_worst_first(cache: Cache, sink: Sink) -> None:
    notes = [note(cache, f"alert {n}", "critical" if n == 30 else "info") for n in range(40)]
    with Post(make_targets([sink.url("ok")]), cache.alerts, Digest(over=3, within_seconds=0.3)) as post:
        for one in notes:
            post.put(one)
        assert within(10, lambda: outcomes(cache) == {"json": ("sent", 1)})
    (message,) = sink.at("/ok")
    lines = message["message"].splitlines()
    assert message["title"] == "40 alerts"
    assert (lines[0], lines[-1], len(lines)) == ("- alert 30", "and 20 more", 21)
    assert message["type"] == "failure"
    assert all(a["deliveries"][0]["outcome"] == "sent" for a in cache.alerts.recent(100))


def test_a_few_are_messages_of_their_own() -> None:
    notes = [Note(str(n), f"t{n}", "x", "info") for n in range(4)]
    assert [len(g) for g in gather(notes[:3], over=3)] == [1, 1, 1]
    assert [len(g) for g in gather(notes, over=3)] == [4]
    assert in_one(notes[:1]) == ("t0", "x", "info")


def test_beyond_what_may_wait_the_oldest_are_left_out_and_that_is_kept(cache: Cache, sink: Sink) -> None:
    with Post(make_targets([sink.url("ok")]), cache.alerts, Digest(over=1, within_seconds=0.5)) as post:
        first = note(cache, "the first")
        for one in [first, *(note(cache, "later") for _ in range(MAX_WAITING))]:
            post.put(one)
        assert within(10, lambda: outcomes(cache) == {"json": ("sent", 1)})
    (oldest,) = [a for a in cache.alerts.recent(MAX_WAITING + 1) if a["id"] == first.id]
    assert oldest["deliveries"][0]["outcome"] == "left out"
    assert sink.at("/ok")[0]["title"] == f"{MAX_WAITING} alerts"


def test_without_redis_messages_still_go_out(sink: Sink) -> None:
    away = Cache("redis://127.0.0.1:1")
    with Post(make_targets([sink.url("ok")]), away.alerts, AT_ONCE) as post:
        post.put(Note("1-0", "t", "x", "info"))
        assert within(10, lambda: len(sink.at("/ok")) == 1)
    away.close()


def test_threads_end_with_the_post(cache: Cache, sink: Sink) -> None:
    others = set(threading.enumerate())
    with Post(make_targets([sink.url("ok")]), cache.alerts, AT_ONCE):
        (mine,) = [t for t in threading.enumerate() if t.name == "alerts to json" and t not in others]
    mine.join(timeout=5)
    assert not mine.is_alive()
