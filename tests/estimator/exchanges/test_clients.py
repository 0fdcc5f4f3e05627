"""ccxt's clients are those of ccxt, and only those that were asked for."""

from __future__ import annotations

import subprocess
import sys
from textwrap import dedent


def in_a_process_of_its_own(program: str) -> str:
    return subprocess.run([sys.executable, "-c", dedent(program)], capture_output=True, check=True, text=True).stdout


def test_a_client_brings_the_modules_of_its_venue_alone() -> None:
    told = in_a_process_of_its_own("""
        import sys
        from estimator.exchanges.clients import client_class
        client_class("binanceusdm"), client_class("okx")
        print(*(name.removeprefix("ccxt.pro.") for name in sys.modules if name.startswith("ccxt.pro.")))
    """)
    assert set(told.split()) == {"binance", "binanceusdm", "okx"}


def test_the_client_is_ccxts_own_and_its_errors_are_those_we_translate() -> None:
    told = in_a_process_of_its_own("""
        from estimator.exchanges.clients import client_class, errors
        made = client_class("bybit")
        import ccxt, ccxt.async_support.bybit
        assert made is ccxt.pro.bybit
        assert issubclass(made, ccxt.async_support.bybit), "not the module"
        assert ccxt.NetworkError is errors.NetworkError
        print(sorted(made().has)[:1], hasattr(ccxt.pro, "no_such_exchange"))
    """)
    assert told.split()[-1] == "False"


def test_a_ccxt_that_is_there_already_is_taken_as_it_is() -> None:
    told = in_a_process_of_its_own("""
        import ccxt.pro
        from estimator.exchanges.clients import client_class, errors
        print(client_class("okx") is ccxt.pro.okx, errors.NetworkError is ccxt.NetworkError)
    """)
    assert told.split() == ["True", "True"]
