"""Signatures read from source code, so that settings are checked before torch is imported.

A target such as `landmark.loss.ArcFace` or `torch.optim.SGD` is followed through the imports of its
packages to its definition. Nothing is executed but the annotations, in which every name that is
not a builtin type, of typing, or of pydantic stands for anything.
"""

import ast
import builtins
import collections.abc
import importlib.util
import math
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pydantic

UNKNOWN = object()  # a default that is no literal


@dataclass(frozen=True)
class Parameter:
    """One parameter: its annotation, and its default (`UNKNOWN`: none, or not a literal)."""

    annotation: Any = Any
    default: Any = UNKNOWN
    required: bool = False


@dataclass(frozen=True)
class Signature:
    """The parameters of a target by name; `is_open`: it takes other keywords as well."""

    parameters: dict[str, Parameter]
    is_open: bool = False


def read_signature(target: str) -> Signature | None:
    """The signature of the class or function `target`; None where its source is not found.

    Keywords that a constructor passes on, `**options: Unpack[Options]`, are those of the typed
    dictionary; their defaults are those of the base class.
    """
    found = _find(target)
    if found is None:
        return None
    module, node = found
    return _signature(module, node)


@dataclass(frozen=True)
class _Module:
    """A parsed source file."""

    name: str
    is_package: bool
    tree: ast.Module

    def definition(self, name: str) -> ast.stmt | None:
        """The statement that defines or imports `name`, the last one wins."""
        return _names(self.tree).get(name)

    def absolute(self, statement: ast.ImportFrom) -> str:
        """The module that a `from` statement names."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        kept = parts[: len(parts) - statement.level + self.is_package]
        return ".".join([*kept, *([statement.module] if statement.module else [])])


@cache
def _names(tree: ast.Module) -> dict[str, ast.stmt]:
    names: dict[str, ast.stmt] = {}
    for statement in _statements(tree.body):
        if isinstance(statement, ast.ClassDef | ast.FunctionDef):
            names[statement.name] = statement
        elif isinstance(statement, ast.ImportFrom):
            names |= {alias.asname or alias.name: statement for alias in statement.names}
        elif isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
            names[statement.targets[0].id] = statement
    return names


def _statements(body: list[ast.stmt]) -> typing.Iterator[ast.stmt]:
    """Statements of a module, those inside of `if` and `try` too."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from _statements(statement.body)


@cache
def _module(name: str) -> _Module | None:
    """Parse a module's file without importing the packages around it."""
    file = _source_file(name)
    if file is None or file.suffix != ".py":
        return None
    try:
        tree = ast.parse(file.read_text(encoding="utf-8"))
    except (OSError, SyntaxError, UnicodeDecodeError):
        return None
    return _Module(name, file.name == "__init__.py", tree)


def _source_file(name: str) -> Path | None:
    top, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    file = None if spec is None or spec.origin is None else Path(spec.origin)
    for part in rest:
        if file is None or file.name != "__init__.py":
            return None
        candidates = (file.parent / part / "__init__.py", file.parent / f"{part}.py")
        file = next((path for path in candidates if path.is_file()), None)
    return file


def _find(target: str) -> tuple[_Module, ast.stmt] | None:
    module_name, _, name = target.rpartition(".")
    module = _module(module_name) if module_name else None
    return None if module is None else _definition(module, name)


def _definition(module: _Module, name: str) -> tuple[_Module, ast.stmt] | None:
    """Where `name`, as seen in `module`, is defined."""
    for _ in range(20):  # a chain of re-exports
        statement = module.definition(name)
        if not isinstance(statement, ast.ImportFrom):
            return None if statement is None else (module, statement)
        original = next(a.name for a in statement.names if (a.asname or a.name) == name)
        following = _module(module.absolute(statement))
        if following is None:
            return None
        module, name = following, original
    return None


def _signature(module: _Module, node: ast.stmt) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _of_function(module, node, [])
    if not isinstance(node, ast.ClassDef):
        return None
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(_fields(module, node))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _of_function(module, statement, node.bases)
    for base in node.bases:
        inherited = _signature_of(module, base)
        if inherited is not None:
            return inherited
    return Signature({})


def _signature_of(module: _Module, expression: ast.expr) -> Signature | None:
    found = _resolve(module, expression)
    return None if found is None else _signature(*found)


def _resolve(module: _Module, expression: ast.expr) -> tuple[_Module, ast.stmt] | None:
    """The definition of a name; a generic's brackets are passed over."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    return _definition(module, expression.id) if isinstance(expression, ast.Name) else None


def _of_function(module: _Module, node: ast.FunctionDef, bases: list[ast.expr]) -> Signature:
    arguments = node.args
    plain = [*arguments.posonlyargs, *arguments.args]
    if bases or (plain and plain[0].arg == "self"):
        plain = plain[1:]
    missing: list[ast.expr | None] = [None] * (len(plain) - len(arguments.defaults))
    pairs = [*zip(plain, [*missing, *arguments.defaults], strict=True)]
    pairs += zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
    parameters = {
        argument.arg: Parameter(
            _annotation(module, argument.annotation), _literal(default), default is None
        )
        for argument, default in pairs
    }
    if arguments.kwarg is None:
        return Signature(parameters)
    passed_on = _passed_on(module, arguments.kwarg.annotation)
    if passed_on is None:
        return Signature(parameters, is_open=True)
    inherited: dict[str, Parameter] = {}
    for base in bases:
        signature = _signature_of(module, base)
        inherited |= {} if signature is None else signature.parameters
    for name, parameter in passed_on.items():
        default = inherited.get(name, Parameter()).default
        parameters[name] = Parameter(parameter.annotation, default)
    return Signature(parameters)


def _passed_on(module: _Module, annotation: ast.expr | None) -> dict[str, Parameter] | None:
    """The keys of `Unpack[Options]`; None for anything else."""
    is_unpacked = (
        isinstance(annotation, ast.Subscript)
        and isinstance(annotation.value, ast.Name)
        and annotation.value.id == "Unpack"
    )
    found = _resolve(module, annotation.slice) if is_unpacked else None  # type: ignore[union-attr]
    if found is None or not isinstance(found[1], ast.ClassDef):
        return None
    return _fields(*found)


def _fields(module: _Module, node: ast.stmt) -> dict[str, Parameter]:
    """Annotated names of a class body, those of its bases first."""
    assert isinstance(node, ast.ClassDef)
    fields: dict[str, Parameter] = {}
    for base in node.bases:
        found = _resolve(module, base)
        if found is not None and isinstance(found[1], ast.ClassDef):
            fields |= _fields(*found)
    for statement in node.body:
        if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            annotation = _annotation(module, statement.annotation)
            default = _literal(statement.value)
            fields[statement.target.id] = Parameter(annotation, default, statement.value is None)
    return fields


def _literal(node: ast.expr | None) -> Any:  # noqa: ANN401
    try:
        return UNKNOWN if node is None else ast.literal_eval(node)
    except ValueError:
        return UNKNOWN


_KNOWN_MODULES = ("typing", "collections.abc", "typing_extensions", "pydantic", "pathlib")
_NAMES: dict[str, Any] = {
    **vars(collections.abc),
    **{name: getattr(typing, name) for name in typing.__all__},
    **{name: value for name, value in vars(builtins).items() if isinstance(value, type)},
    **{
        name: getattr(pydantic, name)
        for name in ("Field", "PositiveInt", "NonNegativeInt", "PositiveFloat", "NonNegativeFloat")
    },
    "Path": Path,
    "math": math,
    "None": None,
}


def _annotation(module: _Module, node: ast.expr | None) -> Any:  # noqa: ANN401
    """Evaluate an annotation."""
    if node is None:
        return Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    names = {
        name.id: _value(module, name.id) for name in ast.walk(node) if isinstance(name, ast.Name)
    }
    expression = ast.fix_missing_locations(ast.Expression(_Dots().visit(node)))
    names |= {"Any": Any, "_Class": _Class}
    try:
        return eval(compile(expression, module.name, "eval"), {"__builtins__": {}}, names)
    except Exception:  # an annotation of another project, of any form
        return Any


def _value(module: _Module, name: str) -> Any:  # noqa: ANN401
    """A name of an annotation: of the standard library, an alias, a class, or anything."""
    statement = module.definition(name)
    if isinstance(statement, ast.ImportFrom) and statement.module in _KNOWN_MODULES:
        return _NAMES.get(name, Any)
    found = _definition(module, name)
    if found is not None and isinstance(found[1], ast.Assign):
        value = found[1].value  # text is a value here, as in `Field(description=DEVICES)`
        return value.value if isinstance(value, ast.Constant) else _annotation(found[0], value)
    if found is not None and isinstance(found[1], ast.ClassDef):
        return _Class
    return _NAMES.get(name, Any)


class _Class:
    """Stands for any class of the project or of a library."""


class _Dots(ast.NodeTransformer):
    """Names of other modules: `torch.Tensor` is a class, `math.pi` a number."""

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        if isinstance(node.value, ast.Name) and node.value.id in ("math", "typing"):
            return node
        name = "_Class" if node.attr[0].isupper() else "Any"
        return ast.copy_location(ast.Name(name, ast.Load()), node)
