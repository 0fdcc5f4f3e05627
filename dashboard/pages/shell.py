"""The document around a page: head, navigation, banner, footer. Everything that is not markup of ours is escaped."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from http import HTTPStatus
from typing import Final, NamedTuple
from urllib.parse import urlencode

from dashboard.colours import style_rules
from dashboard.controls import KEYS_HELP, PALETTE_NAMES
from dashboard.navigation import NAVIGATION, Look
from dashboard.view import Theme, ViewError
from estimator.domain import Origin

Address = Callable[[str], str]  # of a file of the site, with its version

_SCRIPTS: Final = ("element.js", "format.js", "nav.js", "keys.js", "pages.js")


class Part(NamedTuple):
    """What a page puts into the document.

    Parameters
    ----------
    path : str
        Address of the page, one of `NAVIGATION`.
    title, description : str
        Plain text.
    body : str
        Markup of the main part.
    script : str, optional
        Its own script.
    foot : str
        Markup at the end.
    banner : str
        What nobody may miss about the source; scripts say it where they fetch.
    origin : Origin, optional
        Of the data, for the colour of the banner.
    """

    path: str
    title: str
    description: str
    body: str
    script: str | None = None
    foot: str = ""
    banner: str = ""
    origin: Origin | None = None


def document(part: Part, look: Look, address: Address) -> str:
    """Return the whole document of a page."""
    scripts = [*_SCRIPTS, *([part.script] if part.script else [])]
    name = part.path.strip("/")
    return f"""<!DOCTYPE html>
<html lang="en" data-page="{escape(name)}" data-banner="{"yes" if part.banner else ""}" data-theme="{look.theme}"
 data-palette="{look.palette}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(part.title)} · liqheat</title>
<meta name="description" content="{escape(part.description)}">
<meta property="og:title" content="{escape(part.title)} · liqheat">
<meta property="og:description" content="{escape(part.description)}">
<link rel="icon" href="{escape(address("favicon.ico"))}">
{"".join(f'<link rel="stylesheet" href="{escape(address(f))}">' for f in ("liqheat.css", "pages.css"))}
<style>{style_rules()}</style>
{"".join(f'<script defer src="{escape(address(f))}"></script>' for f in scripts)}
</head>
<body>
<a class="skip" href="#content">Skip to the content</a>
<div class="page">
{_header(part.path, look)}
<div class="strip"><div class="banner" id="banner" role="status">{_banner(part)}</div></div>
<main id="content" class="content" tabindex="-1">
{part.body}
</main>
<footer class="footer">{part.foot}<span>times in UTC</span><a href="/docs">API</a></footer>
</div>
</body>
</html>
"""


def problem(path: str, error: ViewError, given: Mapping[str, str]) -> Part:
    """Return what is shown where an address asks for something that cannot be: the value, and the way on."""
    kept = {name: value for name, value in given.items() if name in ("theme", "palette") and name != error.name}
    rest = urlencode(kept)
    body = f"""<section class="notice-page" role="alert">
<h1>This link asks for something that cannot be shown</h1>
<p><code>{escape(error.name)}={escape(str(error.value))}</code> is not possible. {escape(_accepted(error))}.</p>
<p><a class="button" href="{escape(path)}{"?" if rest else ""}{escape(rest)}">Show the page without it</a></p>
</section>"""
    return Part(path, "Not possible", "This address cannot be shown.", body)


def _accepted(error: ViewError) -> str:
    return ("There is " if error.expected.startswith("no such") else "Accepted: ") + error.expected


def refusal(path: str, status: int, words: str) -> Part:
    """Return what is shown in place of a page: where there is none, and where it cannot be asked like this."""
    title, told = f"{status}: {words}", "is not asked for like this."
    if status == HTTPStatus.NOT_FOUND:
        is_snapshot = path.startswith("/s/")
        title = "There is no such snapshot" if is_snapshot else "There is no such page"
        told = "is no address of this site." + (" A snapshot stays with its server." if is_snapshot else "")
    body = f"""<section class="notice-page">
<h1>{escape(title)}</h1>
<p><code>{escape(path[:200])}</code> {told}</p>
<p><a class="button" href="/">To the heatmap</a></p>
</section>"""
    return Part(path, title, "Nothing is shown at this address.", body)


def _banner(part: Part) -> str:
    return f'<span class="{part.origin}">{escape(part.banner)}</span>' if part.banner else ""


def _header(path: str, look: Look) -> str:
    query = look.query()
    suffix = f"?{query}" if query else ""
    current = ' aria-current="page"'
    links = "".join(
        f'<a href="{e.path}{escape(suffix)}" data-path="{e.path}" title="{escape(e.hint)}"'
        f"{current if e.path == path else ''}>{escape(e.name)}</a>"
        for e in NAVIGATION
    )
    palettes = "".join(
        f'<option value="{p}"{" selected" if p is look.palette else ""}>{escape(name)}</option>'
        for p, name in PALETTE_NAMES.items()
    )
    return f"""<header class="bar top">
<a class="brand" href="/{escape(suffix)}" data-path="/" title="liqheat: liquidation heatmap">
<span class="logo"></span><span class="brand-name">liqheat</span></a>
<nav class="nav" aria-label="Pages">{links}</nav>
<div class="spacer"></div>
<label class="tool palette-choice"><span class="tool-name">Colours</span>
<select id="palette-choice">{palettes}</select></label>
<button type="button" class="tool tool-button keys-help" data-keys-help title="{KEYS_HELP}"
 aria-label="{KEYS_HELP}">?</button>
<button type="button" id="theme-choice" class="tool tool-button" aria-label="Dark or light"
 title="Dark or light"><span class="icon icon-{"sun" if look.theme is Theme.DARK else "moon"}"></span></button>
</header>"""
