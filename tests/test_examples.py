"""The examples in docstrings run and print what they show."""

import doctest
import importlib
import pkgutil

import pytest

import landmark

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(landmark.__path__, "landmark.")
    if not module.name.endswith("__main__")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0
