"""Every exception class of the package travels between processes: `Pool.map` hangs for ever on one that does not."""

from __future__ import annotations

import copy
import importlib
import inspect
import pickle
import pkgutil
from types import ModuleType
from typing import Any

import pytest

import bavt_fast as bavt

SAMPLES: dict[str, Any] = {
    "message": "what went wrong",
    "resource": "tokens",
    "spent": bavt.Spent(tokens=3),
    "place": 2,
    "problem": "bad",
    "is_known": False,
    "asked": True,
}
"""What a parameter of an exception's constructor is given, by its name. Add to it where a class has another."""


def modules() -> list[ModuleType]:
    """The package's modules, but for those that need what is not installed."""
    found: list[ModuleType] = [bavt]
    for entry in pkgutil.walk_packages(bavt.__path__, "bavt_fast."):
        if entry.name == "bavt_fast.__main__":
            continue  # it runs the command line
        try:
            found.append(importlib.import_module(entry.name))
        except ModuleNotFoundError as error:
            if error.name is None or error.name.startswith("bavt_fast"):
                raise
        except SystemExit:  # the command line, where what it needs is not installed
            continue
    return found


def exception_classes() -> list[type[BaseException]]:
    found = {
        value
        for module in modules()
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, BaseException) and value.__module__.startswith("bavt_fast")
    }
    return sorted(found, key=lambda cls: cls.__qualname__)


def search_result() -> bavt.SearchResult:
    return bavt.search("q", generator=lambda text, count: ["Answer: 4"] * count, budget=bavt.Budget(tokens=10))


def example(cls: type[BaseException]) -> BaseException:
    """One of the class, made from what its constructor asks for."""
    if cls.__init__ in (BaseException.__init__, Exception.__init__) or "__init__" not in vars(cls):
        return cls(SAMPLES["message"])
    names = list(inspect.signature(cls.__init__).parameters)[1:]
    samples = {**SAMPLES, "result": search_result(), "results": [search_result()]}
    return cls(*[samples[name] for name in names])


def test_the_classes_are_found() -> None:
    """The search below can fail: it finds those of the native module and those with constructors of their own."""
    names = {cls.__name__ for cls in exception_classes()}
    assert names >= {"BudgetExceeded", "CapacityError", "SearchError", "SnapshotError"}


@pytest.mark.parametrize("cls", exception_classes(), ids=lambda cls: cls.__name__)
def test_an_exception_survives_pickle_and_copy(cls: type[BaseException]) -> None:
    error = example(cls)
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is cls
        assert str(other) == str(error)
        assert vars(other).keys() == vars(error).keys()
        for name, value in vars(error).items():
            if isinstance(value, (str, bool, bavt.Spent)):
                assert vars(other)[name] == value, name
