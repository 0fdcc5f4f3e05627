"""The only reader of the environment.

Every setting is an environment variable with the prefix ``LIQHEAT_`` (``REDIS_URL`` aside) or a line of ``.env``;
``.env.example`` lists them all and a test holds it against this class.
"""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Final, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, DotEnvSettingsSource, EnvSettingsSource, SettingsConfigDict

PREFIX: Final = "LIQHEAT_"
NAMES_TOLD: Final = "LIQHEAT__NAMES_TOLD"  # set for the children of `run`, which has warned already
VENUES: Final = ("binance", "bybit", "okx", "gate", "bitget", "hyperliquid")
_SECRETS: Final = frozenset({"LIQHEAT_ALERTS_URLS", "LIQHEAT_METRICS_TOKEN"})
_PASSWORD: Final = re.compile("@|password", re.IGNORECASE)


class Settings(BaseSettings):
    """Settings of the worker and the web server."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_file=".env", env_ignore_empty=True, extra="ignore", frozen=True
    )

    host: str = Field(default="127.0.0.1", description="Address the web server listens on.")
    port: int = Field(default=8050, ge=1, le=65535, description="Port the web server listens on.")
    redis_url: str | None = Field(
        default=None,
        validation_alias="REDIS_URL",
        description="Redis >= 7 or Valkey >= 8 to use; empty starts the bundled server on a private unix socket.",
    )
    redis_memory: str = Field(
        default="2gb",
        pattern=r"^[1-9]\d*(mb|gb)$",
        description="Most memory the bundled server takes, e.g. 512mb; about 5 MB a market with two days of past.",
    )
    data: Path = Field(
        default=Path("data"),
        description="Folder of the bundled server's append-only file, the history and the snapshots.",
    )
    source: Literal["simulated", "recorded", "live", "auto"] = Field(
        default="auto",
        description="Where market data comes from; auto is live where a venue answers, else simulated.",
    )
    probe_s: PositiveFloat = Field(
        default=4.0, description="How long --source auto waits for an answer of the venues, in seconds."
    )
    probe_every_s: PositiveFloat = Field(
        default=30.0,
        description="How often auto asks the venues again while it shows the simulated market, in seconds.",
    )
    allow_switch: bool = Field(
        default=True,
        description="Whether visitors may switch from the simulated market to live data once venues answer again.",
    )
    venues: str = Field(default="binance,bybit,okx", description="Venues that --source live and auto follow.")
    markets: str = Field(
        default="BTC,ETH,SOL",
        description="Coins or symbols to follow on each venue, or 'top 100' for those with most open interest on all.",
    )
    hyperliquid_addresses: str | None = Field(
        default=None,
        repr=False,
        description="Accounts on Hyperliquid that are always asked what they hold: a file, one a line, or with commas.",
    )
    exchange_base: str | None = Field(
        default=None, description="Address that stands in for all venues, with their hosts as folders; for tests."
    )
    history: str | None = Field(
        default=None, description="Folder or object-store URL of the history; empty is the folder history in the data."
    )
    retention_days: PositiveInt | None = Field(
        default=None, description="History older than this is dropped; empty keeps everything."
    )
    columns_5m_days: PositiveInt = Field(
        default=30, description="Columns on 5 minutes but not on 15 are dropped from history after so many days."
    )
    columns_15m_days: PositiveInt = Field(
        default=60, description="Columns on 15 minutes but not on 30 are dropped from history after so many days."
    )
    columns_30m_days: PositiveInt = Field(
        default=90,
        description="Columns on half hours are dropped from history after so many days; hourly ones stay.",
    )
    compact_hours: PositiveFloat = Field(default=1.0, description="Small files of the history are merged this often.")
    recording: Path | None = Field(default=None, description="Folder or file that --source recorded reads.")
    replay: PositiveFloat | None = Field(
        default=None,
        description="Play a recording as if live, this many times faster than time; empty shows it at rest.",
    )
    seed: NonNegativeInt = Field(default=7, description="Seed of the simulated market.")
    days: float = Field(
        default=30.0, gt=0, le=400, description="Length of the past, simulated or fetched from the venues, in days."
    )
    preset: Literal["balanced", "positions", "high-leverage"] = Field(
        default="balanced", description="Mix of effective leverages the position book assumes."
    )
    refit_hours: PositiveFloat | None = Field(
        default=None,
        description="Assumptions of live markets are fitted to their own liquidations this often; empty never.",
    )
    alerts_file: Path | None = Field(
        default=None, description="TOML file with the rules and targets of alerts; empty, and no URLs, tells none."
    )
    alerts_urls: str | None = Field(
        default=None,
        repr=False,
        description="Apprise URLs that alerts go to, separated by blanks; by the default rules where there is no file.",
    )
    cache_ttl_hours: PositiveFloat = Field(
        default=72.0, description="Cache entries that nobody renews are dropped after this long."
    )
    frame_ancestors: str = Field(
        default="*", description="Sites that may frame /embed, as in the CSP directive (space separated; * for any)."
    )
    public_url: str | None = Field(
        default=None,
        pattern=r"^https?://[^/\s]+(/\S*)?$",
        description="Address of the site as others see it, for embed snippets; empty takes it from the request.",
    )
    trusted_proxies: str = Field(
        default="127.0.0.1,::1",
        description="Addresses and networks of proxies whose X-Forwarded-For and -Proto are believed, comma separated.",
    )
    limit_reads: NonNegativeInt = Field(
        default=3000,
        description="Requests a minute of one client for pages and whatever is mostly kept ready; 0 for any number.",
    )
    limit_computed: NonNegativeInt = Field(
        default=600,
        description="Requests a minute of one client to work something out, new views too; 0 for any number.",
    )
    limit_writes: NonNegativeInt = Field(
        default=20,
        description="Requests a minute of one client that leave something behind, such as snapshots; 0 for any number.",
    )
    limit_streams: NonNegativeInt = Field(
        default=32,
        description="Streams that one client may hold open on one web process; 0 for any number.",
    )
    limit_snapshots: NonNegativeInt = Field(
        default=50, description="Snapshots that one client may make in a UTC day; 0 for any number."
    )
    snapshots_mb: NonNegativeInt = Field(
        default=1024,
        description="All snapshots together take at most this much of the data folder, in MB; 0 takes none.",
    )
    metrics_token: str | None = Field(
        default=None,
        description="Bearer token that /metrics asks for; empty serves it to this machine alone.",
    )

    @field_validator("redis_url")
    @classmethod
    def _check_redis(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("redis://", "rediss://", "unix://")):
            raise PydanticCustomError("redis", "use redis://host:6379/0 or unix:///path/to/socket")
        return value

    @field_validator("exchange_base")
    @classmethod
    def _check_address(cls, value: str | None) -> str | None:
        if value is not None and not re.match(r"https?://[^/\s]", value):
            raise PydanticCustomError("address", "use an address such as http://127.0.0.1:9000")
        return value

    @field_validator("venues")
    @classmethod
    def _check_venues(cls, value: str) -> str:
        unknown = [name for name in (n.strip().lower() for n in value.split(",")) if name not in VENUES]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is not one of {', '.join(VENUES)}")
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_networks(cls, value: str) -> str:
        # The web server takes what it cannot read for a name that is never met, and a star for leave to make up any.
        for part in value.split(","):
            ipaddress.ip_network(part.strip())
        return value


def variable(field: str) -> str:
    """Return the environment variable of a setting."""
    info = Settings.model_fields.get(field)
    return str((info and info.validation_alias) or (field if info is None else f"{PREFIX}{field.upper()}"))


def problems(error: ValidationError) -> list[str]:
    """Say what is wrong with each setting: its variable, its value unless it may be secret, and why."""
    told = []
    for one in error.errors(include_url=False):
        name, value = variable(str(one["loc"][0])), one["input"]
        hidden = name in _SECRETS or _PASSWORD.search(str(value)) is not None
        shown = "the value" if hidden else repr(value)
        # A check of our own may quote the value.
        why = "it cannot be used" if hidden and "ctx" in one and "error" in one["ctx"] else one["msg"]
        told.append(f"{name}: {shown} is not valid: {why.removeprefix('Value error, ')}")
    return told


def unknown_names() -> dict[str, str | None]:
    """Find variables with our prefix, in the environment and ``.env``, that are no setting.

    Returns
    -------
    dict
        Of each the setting that is spelt most like it; None where none is close. Empty where `run` has told already.
    """
    given = {n.upper() for source in (EnvSettingsSource, DotEnvSettingsSource) for n in source(Settings).env_vars}
    known = {variable(field) for field in Settings.model_fields}
    if NAMES_TOLD in given:
        return {}
    unknown = sorted(n for n in given - known if n.startswith(PREFIX))
    return {name: next(iter(get_close_matches(name, known, n=1, cutoff=0.8)), None) for name in unknown}
