import doctest
import pkgutil
from importlib import import_module

import pytest

import faceaffect

MODULES = [m.name for m in pkgutil.walk_packages(faceaffect.__path__, "faceaffect.") if not m.ispkg]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module_hold(name: str) -> None:
    assert doctest.testmod(import_module(name)).failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    found = finder.find(import_module("faceaffect.schema"))
    assert any(test.examples for test in found)
