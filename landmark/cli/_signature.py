"""Read signatures from source code, so that settings are checked before torch is imported.

A target such as `landmark.loss.ArcFace` or `torch.optim.SGD` is followed through the imports of its
packages to its definition. Only annotations are evaluated; a name in them that is neither a builtin
type nor from typing, collections.abc, pathlib or pydantic stands for any class or any value.
"""

import ast
import builtins
import importlib
import importlib.util
import math
import typing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

UNKNOWN = object()  # no default, or one that is not a literal


@dataclass(frozen=True)
class Parameter:
    """One parameter of a signature."""

    annotation: Any = Any
    default: Any = UNKNOWN
    required: bool = False


@dataclass(frozen=True)
class Signature:
    """The parameters of a target by name; `is_open` if it accepts other keywords too."""

    parameters: dict[str, Parameter]
    is_open: bool = False


@cache
def read_signature(target: str) -> Signature | None:
    """Return the signature of a class or function; None if its source is not Python.

    Keywords that a constructor passes to its base, `**options: Unpack[Options]`, are those of the
    typed dictionary, with the defaults of the base class.
    """
    module_name, _, name = target.rpartition(".")
    module = _module(module_name) if module_name else None
    definition = None if module is None else _definition(module, name)
    return None if definition is None else _signature(*definition)


@dataclass(frozen=True)
class _Module:
    """A parsed source file."""

    name: str
    is_package: bool
    tree: ast.Module

    def definition(self, name: str) -> ast.stmt | None:
        """Return the last statement that defines or imports `name`."""
        return _names(self.tree).get(name)

    def absolute(self, statement: ast.ImportFrom) -> str:
        """Return the absolute name of the module in a `from` statement."""
        if not statement.level:
            return statement.module or ""
        parts = self.name.split(".")
        parents = parts[: len(parts) - statement.level + self.is_package]
        return ".".join([*parents, *([statement.module] if statement.module else [])])


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
    """Yield the statements of a module, including those inside `if` and `try`."""
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


def _definition(module: _Module, name: str) -> tuple[_Module, ast.stmt] | None:
    """Find the definition of `name` in `module`, following its imports."""
    for _ in range(20):  # a chain of re-exports
        statement = module.definition(name)
        if not isinstance(statement, ast.ImportFrom):
            return None if statement is None else (module, statement)
        original = next(a.name for a in statement.names if (a.asname or a.name) == name)
        source = _module(module.absolute(statement))
        if source is None:
            return None
        module, name = source, original
    return None


def _signature(module: _Module, node: ast.stmt) -> Signature | None:
    if isinstance(node, ast.FunctionDef):
        return _function_signature(module, node, [])
    if not isinstance(node, ast.ClassDef):
        return None
    if any("dataclass" in ast.unparse(decorator) for decorator in node.decorator_list):
        return Signature(_fields(module, node))
    for statement in node.body:
        if isinstance(statement, ast.FunctionDef) and statement.name == "__init__":
            return _function_signature(module, statement, node.bases)
    for base in node.bases:
        inherited = _signature_of_base(module, base)
        if inherited is not None:
            return inherited
    return Signature({})


def _signature_of_base(module: _Module, base: ast.expr) -> Signature | None:
    definition = _resolve(module, base)
    return None if definition is None else _signature(*definition)


def _resolve(module: _Module, expression: ast.expr) -> tuple[_Module, ast.stmt] | None:
    """Find the definition of a name, ignoring the brackets of a generic."""
    if isinstance(expression, ast.Subscript):
        expression = expression.value
    return _definition(module, expression.id) if isinstance(expression, ast.Name) else None


def _function_signature(module: _Module, node: ast.FunctionDef, bases: list[ast.expr]) -> Signature:
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
    unpacked = _unpacked_keywords(module, arguments.kwarg.annotation)
    if unpacked is None:
        return Signature(parameters, is_open=True)
    inherited: dict[str, Parameter] = {}
    for base in bases:
        signature = _signature_of_base(module, base)
        inherited |= {} if signature is None else signature.parameters
    for name, parameter in unpacked.items():
        default = inherited.get(name, Parameter()).default
        parameters[name] = Parameter(parameter.annotation, default)
    return Signature(parameters)


def _unpacked_keywords(module: _Module, annotation: ast.expr | None) -> dict[str, Parameter] | None:
    """Return the keys of `Unpack[Options]`; None for any other annotation."""
    match annotation:
        case ast.Subscript(value=ast.Name("Unpack"), slice=options):
            definition = _resolve(module, options)
            if definition is not None and isinstance(definition[1], ast.ClassDef):
                return _fields(*definition)
    return None


def _fields(module: _Module, node: ast.stmt) -> dict[str, Parameter]:
    """Return the annotated names of a class body, those of its bases first."""
    fields: dict[str, Parameter] = {}
    if not isinstance(node, ast.ClassDef):
        return fields
    for base in node.bases:
        if (definition := _resolve(module, base)) is not None:
            fields |= _fields(*definition)
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


class _Class:
    """Any class of the project or of a library."""


class _Library:
    """A module that is not imported: `torch.Tensor` is any class, `torch.float32` any value."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401
        return _Class if name[0].isupper() else self


# Modules that are imported to evaluate annotations; they are cheap.
_KNOWN_MODULES = ("typing", "collections.abc", "typing_extensions", "pydantic", "pathlib")
_GLOBALS = {"__builtins__": {}, "math": math, "typing": typing}


def _annotation(module: _Module, node: ast.expr | None) -> Any:  # noqa: ANN401
    """Evaluate an annotation."""
    if node is None:
        return Any
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        node = ast.parse(node.value, mode="eval").body
    names = {child.id for child in ast.walk(node) if isinstance(child, ast.Name)}
    values = {name: _value(module, name) for name in names if name not in _GLOBALS}
    try:
        return eval(compile(ast.Expression(node), module.name, "eval"), _GLOBALS, values)
    except Exception:  # another project's annotation can be of any form
        return Any


def _value(module: _Module, name: str) -> Any:  # noqa: ANN401
    """Evaluate a name in an annotation: from a known module, an alias, a class, or any value."""
    statement = module.definition(name)
    if isinstance(statement, ast.ImportFrom) and statement.module in _KNOWN_MODULES:
        return getattr(importlib.import_module(statement.module), name, Any)
    match _definition(module, name):
        case _, ast.Assign(value=ast.Constant(value=text)):
            return text  # such as DEVICES in `Field(description=DEVICES)`
        case other, ast.Assign(value=alias):
            return _annotation(other, alias)
        case _, ast.ClassDef():
            return _Class
    builtin = getattr(builtins, name, None)
    return builtin if isinstance(builtin, type) else _Library()
