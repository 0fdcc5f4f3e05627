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
# What may be told of a socket's own words, which hold the address: these of ours, in the order they are looked for.
_CAUSES: Final = (
    (r"certificate.verify.failed", "its certificate was not accepted"),
    (r"SSLError|\[SSL", "no TLS connection"),
    (r"Name or service not known|NameResolutionError|name resolution|nodename nor servname", "no such host"),
    (r"Connection refused", "connection refused"),
    (r"Connection reset|RemoteDisconnected|unexpectedly closed", "the other side hung up"),
    (r"unreachable|No route to host", "network unreachable"),
    (r"timed out", "the connection timed out"),
    (r"\(53[045], ", "the mail server did not accept user or password"),
)


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
        result = self._sender.notify(
            body=text, title=title, notify_type=kind, body_format="text", timeout=wait_s, log_level=logging.DEBUG
        )
        if result:
            return Outcome("sent")
        if result.status.name == "TIMEOUT":
            return Outcome("timed out", f"no answer within {wait_s:g} s")
        return Outcome("failed", _why((entry.level, entry.message) for entry in result.logs()))


def _why(said: Iterable[tuple[str, str]]) -> str:
    """Tell the cause that Apprise's log gives, in words of ours: its own may hold an address."""
    why = ""
    for level, message in said:
        if level != "DEBUG" and (status := _STATUS.search(message)):
            why = f"HTTP {status[1]}"
        elif message.startswith("Socket "):  # other details may be those of the message
            why = next((words for cause, words in _CAUSES if re.search(cause, message, re.IGNORECASE)), why)
    return why or "not delivered; Apprise gives no reason"


def make_targets(urls: Iterable[str]) -> list[Target]:
    """Make targets of Apprise URLs.

    Raises
    ------
    SettingsError
        If Apprise does not take one, naming its place and scheme only.
    """
    from apprise import Apprise, AppriseAsset, PersistentStoreMode  # noqa: PLC0415 - 50 MB, for those who use it

    log = logging.getLogger("apprise")
    log.propagate = False  # outcomes are told by us, without addresses
    log.setLevel(logging.DEBUG)  # the cause of a failure is told on no other level
    asset = AppriseAsset(app_id="liqheat", app_desc="Liquidation heatmap", storage_mode=PersistentStoreMode.MEMORY)
    targets: list[Target] = []
    seen: Counter[str] = Counter()
    for at, url in enumerate(urls, 1):
        found = _SCHEME.match(url)
        scheme = found[1].lower() if found else "no scheme"
        sender = Apprise(asset=asset)
        if not sender.add(url) or len(sender) != 1:
            raise SettingsError(f"target {at} of alerts ({scheme}): {_wrong_with(scheme, url)}; see docs/alerts.md")
        seen[scheme] += 1
        label = scheme if seen[scheme] == 1 else f"{scheme} {seen[scheme]}"
        targets.append(Target(label, str(sender[0].service_name), sender))
    return targets


def _wrong_with(scheme: str, url: str) -> str:
    """Tell why Apprise does not take an address, without anything that stands in it."""
    from apprise import NotificationManager  # noqa: PLC0415 - as above

    services = NotificationManager()  # type: ignore[no-untyped-call]
    if "://" not in url:
        said = "not an address that Apprise accepts, which begins with SCHEME://"
    elif scheme not in services:
        said = "Apprise knows no service by that scheme"
    else:
        forms = [form.replace("{schema}", scheme) for form in services[scheme].templates]
        form = " or ".join(dict.fromkeys((forms[0], forms[-1])))
        said = f"not an address that Apprise accepts, whose form is {form}"
    if "," in url:
        said += "; several are separated by blanks in LIQHEAT_ALERTS_URLS and are strings of their own in the file"
    return said
