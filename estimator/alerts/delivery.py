"""`Post`: messages on their way out, a thread and a bounded queue for every target, so that none waits for another."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final, NamedTuple, Protocol, Self

from tenacity import RetryCallState, Retrying, retry_if_result, sleep_using_event, stop_after_attempt
from tenacity import wait_exponential_jitter as wait_longer

from estimator.alerts.config import SEVERITIES, Digest, Severity
from estimator.alerts.targets import Outcome, Target
from estimator.errors import CacheError

_LOG: Final = logging.getLogger(__name__)
MAX_WAITING: Final = 200  # notes per target; the oldest are left out beyond
ATTEMPTS: Final = 4
_FIRST_S: Final = 2.0  # pause before the second attempt
_LONGEST_S: Final = 60.0  # and between later ones at most
_LINES: Final = 20  # of a digest; the rest is counted


class Note(NamedTuple):
    """An alert as it is sent: its id in the log, and its words."""

    id: str
    title: str
    text: str
    severity: Severity


class Deliveries(Protocol):
    """Where attempts are kept: `estimator.cache.alerts.AlertLog`."""

    def note(self, delivery: dict[str, Any]) -> None:
        """Keep one."""
        ...


class Post:
    """Sends notes to every target; nobody waits for it.

    Parameters
    ----------
    targets : sequence of Target
    log : Deliveries
        Gets every attempt.
    digest : Digest
    first_s : float
        Pause before the second attempt; the later ones are longer. [s]
    """

    def __init__(
        self, targets: Sequence[Target], log: Deliveries, digest: Digest, *, first_s: float = _FIRST_S
    ) -> None:
        self._stop = threading.Event()
        self._boxes = [_Box(target, log, digest, self._stop, first_s) for target in targets]

    def __enter__(self) -> Self:
        for box in self._boxes:
            threading.Thread(target=box.run, name=f"alerts to {box.target.label}", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for box in self._boxes:
            box.wake()

    def put(self, note: Note) -> None:
        """Hand a note to every target, at once."""
        for box in self._boxes:
            box.put(note)


class _Box:
    """What waits for one target, and the thread that sends it."""

    def __init__(self, target: Target, log: Deliveries, digest: Digest, stop: threading.Event, first_s: float) -> None:
        self.target, self._log, self._digest, self._stop = target, log, digest, stop
        self._waiting: deque[Note] = deque()
        self._left_out: list[str] = []
        self._news = threading.Condition()
        self._retrying = Retrying(
            retry=retry_if_result(lambda outcome: outcome.name != "sent"),
            stop=stop_after_attempt(ATTEMPTS),
            wait=wait_longer(max=_LONGEST_S, exp_base=4.0, jitter=first_s, multiplier=first_s),
            sleep=sleep_using_event(stop),
            retry_error_callback=_last,
        )

    def put(self, note: Note) -> None:
        with self._news:
            if len(self._waiting) == MAX_WAITING:
                self._left_out.append(self._waiting.popleft().id)
            self._waiting.append(note)
            self._news.notify()

    def wake(self) -> None:
        with self._news:
            self._news.notify()

    def run(self) -> None:
        """Send what comes until stopped; whatever goes wrong with one message, the next one is sent."""
        while not self._stop.is_set():
            with self._news:
                self._news.wait_for(lambda: self._waiting or self._stop.is_set())
            self._stop.wait(self._digest.within_seconds)  # for what fires together
            with self._news:
                notes, left_out = list(self._waiting), self._left_out
                self._waiting.clear()
                self._left_out = []
            if left_out:
                self._keep(left_out, 0, Outcome("left out", f"more than {MAX_WAITING} waited"))
            for together in gather(notes, self._digest.over):
                if not self._stop.is_set():
                    self._deliver(together)

    def _deliver(self, notes: Sequence[Note]) -> None:
        title, text, severity = in_one(notes)
        outcome: Outcome = self._retrying(self._attempt, [n.id for n in notes], title, text, severity)
        if outcome.name != "sent":
            why = f" ({outcome.why})" if outcome.why else ""
            _LOG.warning("%d alerts did not reach %s: %s%s", len(notes), self.target.label, outcome.name, why)

    def _attempt(self, ids: Sequence[str], title: str, text: str, severity: Severity) -> Outcome:
        attempt = self._retrying.statistics.get("attempt_number", 1)
        try:
            outcome = self.target.send(title, text, severity)
        except Exception as error:  # noqa: BLE001 - of a hundred services; its words may hold an address
            outcome = Outcome("failed", type(error).__name__)
        self._keep(ids, attempt, outcome)
        return outcome

    def _keep(self, ids: Sequence[str], attempt: int, outcome: Outcome) -> None:
        now_ms = time.time_ns() // 1_000_000
        told = {"time_ms": now_ms, "alerts": list(ids), "target": self.target.label, "attempt": attempt}
        try:
            self._log.note({**told, "outcome": outcome.name, "why": outcome.why})
        except CacheError as error:
            _LOG.debug("an attempt to deliver is not kept: %s", error)


def gather(notes: Sequence[Note], over: int) -> list[Sequence[Note]]:
    """Put notes into messages: one each, or all into one where there are more than `over`."""
    if len(notes) > over:
        return [notes]
    return [[note] for note in notes]


def in_one(notes: Sequence[Note]) -> tuple[str, str, Severity]:
    """Title, text and severity of the message that tells notes."""
    if len(notes) == 1:
        return notes[0].title, notes[0].text, notes[0].severity
    worst = max((n.severity for n in notes), key=SEVERITIES.index)
    ranked = sorted(notes, key=lambda n: -SEVERITIES.index(n.severity))
    lines = [f"- {n.title}" for n in ranked[:_LINES]]
    if len(notes) > _LINES:
        lines.append(f"and {len(notes) - _LINES} more")
    return f"{len(notes)} alerts", "\n".join(lines), worst


def _last(state: RetryCallState) -> Outcome:
    outcome: Outcome = state.outcome.result() if state.outcome else Outcome("failed")
    return outcome
