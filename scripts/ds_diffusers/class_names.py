"""Classes by their whole names, as messages and reports have them."""

from __future__ import annotations


def name_of_class(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def class_name(value: object) -> str:
    """Module and name of value's class."""
    return name_of_class(type(value))
