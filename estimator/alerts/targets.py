"""Where alerts go: Apprise, which is loaded with the first target. Credentials stay inside."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from estimator.alerts.config import Severity
from estimator.errors import SettingsError

WAIT_S: Final = 20.0  # the longest an attempt may take, however slowly the other side answers
_SCHEME: Final = re.compile(r"([a-zA-Z0-9_+-]{1,24})://")
_STATUS: Final = re.compile(r"error=(\d{3})\b")


class Outcome(NamedTuple):
    """What became of an attempt: ``sent``, ``failed`` or ``timed out``, and why where that is known."""

    name: str
    why: str = ""


class Target:
    """One place messages go to.

    Parameters
    ----------
    label : str
        Scheme of its URL, numbered where several have the same: all of it that is ever told.
    service : str
        What Apprise calls it, e.g. ``"Discord"``.
    sender : apprise.Apprise
    """

    def __init__(self, label: str, service: str, sender: Any) -> None:
        self.label, self.service, self._sender = label, service, sender

    def __repr__(self) -> str:
        return f"Target({self.label})"

    def send(self, title: str, text: str, severity: Severity, wait_s: float = WAIT_S) -> Outcome:
        """Send a message. Blocks, at most for `wait_s`."""
        kind = {"info": "info", "warning": "warning", "critical": "failure"}[severity]
        result = self._sender.notify(body=text, title=title, notify_type=kind, body_format="text", timeout=wait_s)
        if result:
            return Outcome("sent")
        if result.status.name == "TIMEOUT":
            return Outcome("timed out", f"no answer within {wait_s:g} s")
        # Apprise's own words may hold an address: the status of the answer is all that is taken from them.
        codes = [found[1] for entry in result.logs() if (found := _STATUS.search(entry.message))]
        return Outcome("failed", f"HTTP {codes[-1]}" if codes else "not delivered")


def make_targets(urls: Iterable[str]) -> list[Target]:
    """Make targets of Apprise URLs.

    Raises
    ------
    SettingsError
        If Apprise does not know one, naming its place and scheme only.
    """
    from apprise import Apprise, AppriseAsset, PersistentStoreMode  # noqa: PLC0415 - 50 MB, for those who use it

    logging.getLogger("apprise").propagate = False  # outcomes are told by us, without addresses
    asset = AppriseAsset(app_id="liqheat", app_desc="Liquidation heatmap", storage_mode=PersistentStoreMode.MEMORY)
    targets: list[Target] = []
    seen: Counter[str] = Counter()
    for at, url in enumerate(urls, 1):
        found = _SCHEME.match(url)
        scheme = found[1].lower() if found else "no scheme"
        sender = Apprise(asset=asset)
        if not sender.add(url) or len(sender) != 1:
            raise SettingsError(
                f"target {at} of alerts ({scheme}): Apprise does not know it; see docs/alerts.md for the form of URLs"
            )
        seen[scheme] += 1
        label = scheme if seen[scheme] == 1 else f"{scheme} {seen[scheme]}"
        targets.append(Target(label, str(sender[0].service_name), sender))
    return targets
