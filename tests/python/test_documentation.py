"""Whatever has a public name in the package says what it is, and what users call also names its arguments."""

# labels: torch
import ast
import inspect
import re
from collections.abc import Iterator
from enum import Enum
from fnmatch import fnmatch
from pathlib import Path
from types import ModuleType

import ds_diffusers

PACKAGE = Path(ds_diffusers.__file__).parent
FILES = [file for file in sorted(PACKAGE.rglob("*.py")) if "bench" not in file.relative_to(PACKAGE).parts]

Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def definitions(owner: ast.Module | ast.ClassDef, prefix: str) -> Iterator[tuple[str, Definition]]:
    """Public functions and classes, and the public methods of these."""
    for node in owner.body:
        if isinstance(node, Definition) and not node.name.startswith("_"):
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from definitions(node, f"{prefix}{node.name}.")


def test_public_names_have_docstrings() -> None:
    missing = []
    for file in FILES:
        module = ast.parse(file.read_text())
        name = str(file.relative_to(PACKAGE))
        found = [(name, module), *definitions(module, f"{name}: ")]
        missing += [path for path, node in found if not ast.get_docstring(node)]
    assert len(FILES) > 30 and missing == []


def public_callables() -> Iterator[tuple[str, object]]:
    """The public functions and classes of the package and of its modules that users import."""
    for module in (ds_diffusers, *(getattr(ds_diffusers, name) for name in ds_diffusers.__all__)):
        if inspect.ismodule(module):
            own = [name for name, value in vars(module).items() if is_own(value, module)]
            for name in getattr(module, "__all__", own):
                if callable(getattr(module, name)):
                    yield f"{module.__name__}.{name}", getattr(module, name)


def is_own(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__ and not value.__name__.startswith("_")


def test_users_functions_name_their_arguments() -> None:
    missing, count = [], 0
    for path, function in public_callables():
        documentation = inspect.getdoc(function) or ""
        if inspect.isclass(function):
            if issubclass(function, Enum) or "__init__" not in vars(function):
                continue
            documentation += inspect.getdoc(function.__init__) or ""
        names = set(re.findall(r"[\w*]*\w[\w*]*", documentation))  # also patterns of names: norm*_weight
        for name in inspect.signature(function).parameters:
            count += 1
            if not any(fnmatch(name, pattern) for pattern in names):
                missing.append(f"{path}: {name}")
    assert count > 100 and missing == []
