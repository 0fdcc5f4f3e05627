"""A setting, an address or a command that no document mentions fails here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.routing import APIRoute
from pydantic.fields import FieldInfo
from typer.main import get_command

from dashboard.app import create_app
from dashboard.cli import app as commands
from estimator.cache import Cache
from estimator.settings import Settings
from tests.render_exchanges import rewritten

ROOT = Path(__file__).parents[1]
EXAMPLE = (ROOT / ".env.example").read_text()
DOCUMENTS = {path.relative_to(ROOT).as_posix(): path.read_text() for path in (ROOT / "docs").glob("*.md")}
DEPLOYED = {path.name: path.read_text() for path in (ROOT / "deploy").iterdir()}
ALL_TEXT = "\n".join((*DOCUMENTS.values(), (ROOT / "README.md").read_text()))


def variable(name: str, field: FieldInfo) -> str:
    return str(field.validation_alias or f"LIQHEAT_{name.upper()}")


def shown(value: Any) -> str:
    return "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


SETTINGS = {variable(name, field): field for name, field in Settings.model_fields.items()}


def test_the_example_file_lists_every_setting_with_its_meaning_and_default() -> None:
    lines = re.findall(r"(?m)^# (.+)\n(\w+)=(.*)$", EXAMPLE)
    assert lines == [(field.description, name, shown(field.default)) for name, field in SETTINGS.items()]
    assert len(re.findall(r"(?m)^[^#\n]", EXAMPLE)) == len(SETTINGS)


def test_the_example_file_sets_the_defaults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in SETTINGS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    defaults = Settings()
    (tmp_path / ".env").write_text(EXAMPLE)
    assert Settings() == defaults
    (tmp_path / ".env").write_text(EXAMPLE.replace("LIQHEAT_PORT=8050", "LIQHEAT_PORT=8051"))
    assert Settings().port == 8051


@pytest.mark.parametrize(("name", "field"), SETTINGS.items(), ids=list(SETTINGS))
def test_the_configuration_page_has_a_row_for_every_setting(name: str, field: FieldInfo) -> None:
    (row,) = re.findall(rf"(?m)^\| `{name}` \|.*$", DOCUMENTS["docs/configuration.md"])
    default = shown(field.default)
    assert (f"| `{default}` |" if default else "| empty |") in row
    assert field.description is not None
    assert field.description in row


def test_the_configuration_page_knows_no_setting_that_is_gone() -> None:
    mentioned = set(re.findall(r"(?m)^\| `([A-Z0-9_]+)` \|", DOCUMENTS["docs/configuration.md"]))
    assert mentioned == set(SETTINGS)


def addresses() -> list[str]:
    application = create_app(Settings(), Cache("unix:///nowhere"))
    routes = {route.path for route in application.routes if isinstance(route, APIRoute)}
    own = {path for path in routes if not path.startswith("/_") and "{path:path}" not in path}  # `/_` is Dash's
    return sorted({*own, *application.openapi()["paths"], "/", "/embed"})


def test_every_address_is_documented() -> None:
    # The address as a word: `/api/v1/map` is not mentioned by a mention of `/api/v1/markets`.
    missing = [path for path in addresses() if not re.search(rf"{re.escape(path)}(?![\w/])", ALL_TEXT)]
    assert missing == []


def test_every_command_and_its_options_are_documented() -> None:
    group: Any = get_command(commands)
    missing = [name for name in group.commands if not re.search(rf"liqheat {name}\b", ALL_TEXT)]
    assert missing == []
    options = {option for name in group.commands for p in group.commands[name].params for option in p.opts}
    assert [o for o in sorted(options) if o.startswith("--") and o not in ALL_TEXT] == []


def test_the_quickstart_lists_every_command() -> None:
    group: Any = get_command(commands)
    listed = re.findall(r"(?m)^\| `liqheat (\w+)", DOCUMENTS["docs/quickstart.md"])
    assert sorted(listed) == sorted(group.commands)


def test_commands_to_copy_run_without_an_activated_environment() -> None:
    blocks = re.findall(r"(?ms)^```sh\n(.*?)^```", ALL_TEXT)
    bare = re.findall(r"(?m)^(?:[A-Z_]+=\S+ )*(?:liqheat|python|pytest|pip) .*$", "\n".join(blocks))
    assert (bare, re.findall(r"`python -m .*", ALL_TEXT)) == ([], [])


def test_the_page_on_accuracy_names_what_scoring_reads() -> None:
    readers = (ROOT / "estimator" / "scoring" / "sets.py").read_text()
    read = re.findall(r'(?:_daily\(folder, coin|read_table\(folder, [\w"]+, [\w"]+), "(\w+)"|"(\w+_1[dh])"', readers)
    assert read
    assert [kind for kinds in read for kind in kinds if kind not in DOCUMENTS["docs/accuracy.md"]] == []


def test_the_page_on_exchanges_says_what_the_venues_declare() -> None:
    page = DOCUMENTS["docs/exchanges.md"]
    assert rewritten(page) == page, "run python -m tests.render_exchanges"


def test_the_page_on_exchanges_is_rewritten_where_it_differs() -> None:
    page = DOCUMENTS["docs/exchanges.md"]
    wrong = page.replace("bankruptcy", "fair").replace("at most one order per symbol per second", "every order")
    assert wrong != page
    assert "| price of a print | average fill | bankruptcy |" in rewritten(wrong)
    with pytest.raises(ValueError, match="expected once"):
        rewritten(page.replace("<!-- end table -->", ""))


@pytest.mark.parametrize("name", sorted(DEPLOYED))
def test_files_for_deployment_use_settings_and_commands_that_exist(name: str) -> None:
    lines = [line for line in DEPLOYED[name].splitlines() if not line.lstrip().startswith("#")]
    group: Any = get_command(commands)
    used = re.findall(r"\b(?:LIQHEAT_[A-Z_]+|REDIS_URL)\b", "\n".join(lines))
    assert set(used) <= set(SETTINGS)
    started = re.findall(r'(?:bin/|RUN |")liqheat(?: |", ")(\w+)', "\n".join(lines))
    assert started
    assert set(started) <= set(group.commands)
