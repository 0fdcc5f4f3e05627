"""ccxt's clients of the venues asked for, without those of the hundred others.

Importing `ccxt.pro` runs two modules for every exchange that ccxt knows: 116 MB and two seconds, where the six venues
here need 73 MB and half a second. So its packages are set up without their own ``__init__`` before anything imports
them; what lies in them loads as ever, when it is asked for.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
from types import ModuleType
from typing import Any, Final


class _Hollow(ModuleType):
    """A package of ccxt in which an exchange is once it is asked for."""

    def __getattr__(self, name: str) -> Any:
        """Import an exchange that ccxt's own modules name."""
        try:
            importlib.import_module(f"{self.__name__}.{name}")
        except ModuleNotFoundError as error:
            raise AttributeError(f"{self.__name__} has no {name}") from error
        return vars(self)[name]

    def __setattr__(self, name: str, value: object) -> None:
        """Let the name of an exchange stand for its class rather than its module, as in ccxt's own packages."""
        super().__setattr__(name, vars(value).get(name, value) if isinstance(value, ModuleType) else value)


def _without_init(name: str) -> None:
    spec = importlib.util.find_spec(name)
    if spec is None:
        raise ModuleNotFoundError(name=name)
    package = importlib.util.module_from_spec(spec)
    package.__class__ = _Hollow
    sys.modules[name] = package
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, package)


def _set_up() -> None:
    """Make ccxt's packages, with what its own modules take from the top one."""
    for name in ("ccxt", "ccxt.async_support", "ccxt.pro"):
        _without_init(name)
    for source in ("ccxt.base.errors", "ccxt.base.exchange"):
        module = vars(importlib.import_module(source))
        taken = {name: value for name, value in module.items() if isinstance(value, type)}
        vars(sys.modules["ccxt"]).update(taken)


if "ccxt" not in sys.modules:
    _set_up()

errors: Final[Any] = importlib.import_module("ccxt.base.errors")


def client_class(exchange_id: str) -> Any:
    """Return ccxt's client of an exchange, for REST and WebSocket, by ccxt's name of it."""
    return getattr(importlib.import_module(f"ccxt.pro.{exchange_id}"), exchange_id)
