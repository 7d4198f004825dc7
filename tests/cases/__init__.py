"""The case tables: one module for each operator, shared by the tests and the benchmarks.

A module of this package that holds an `OPERATOR` is a table. Adding an operator is adding a module.
"""

import importlib
import pkgutil

from .case import Arguments, Case, Growing, Huge, Maker, Operator, Wrong

__all__ = ["Arguments", "Case", "Growing", "Huge", "Maker", "Operator", "Wrong", "operators"]


def operators() -> list[Operator]:
    """The tables of all operators, by name."""
    modules = (
        importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    )
    return sorted(
        (module.OPERATOR for module in modules if hasattr(module, "OPERATOR")),
        key=lambda operator: operator.name,
    )
