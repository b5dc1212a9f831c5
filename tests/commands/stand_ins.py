"""What tests of commands put in the place of the library."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest

import bdfm_nnunet


class Calls(list[tuple[tuple[Any, ...], dict[str, Any]]]):
    """Stands for a function of the library and keeps what it was called with."""

    def __call__(self, *args: Any, **settings: Any) -> Any:
        self.append((args, settings))
        return None


def replaced(monkeypatch: pytest.MonkeyPatch, module: str, function: str) -> Calls:
    """Puts a stand-in module with one function into the place of a module of the library."""
    stand_in, calls = ModuleType(module), Calls()
    spec = importlib.util.find_spec(module)
    assert spec is not None
    stand_in.__path__ = spec.submodule_search_locations or []  # its other files can be imported
    setattr(stand_in, function, calls)
    monkeypatch.setitem(sys.modules, module, stand_in)
    monkeypatch.setattr(bdfm_nnunet, module.rpartition(".")[2], stand_in, raising=False)
    return calls
