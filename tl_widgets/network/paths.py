"""Parts of a model by dotted path, and of a state dict by prefix."""

from __future__ import annotations

from functools import reduce
from typing import Any


def get_nested_attr(obj: Any, attr_str: str) -> Any:
    """``get_nested_attr(model, "blocks.0.attn")`` -> ``model.blocks[0].attn``."""
    return reduce(getattr, attr_str.split("."), obj)


def set_nested_attr(obj: Any, attr_str: str, value: Any) -> None:
    """Put `value` at a path, as `get_nested_attr` reads it."""
    *path, last = attr_str.split(".")
    setattr(reduce(getattr, path, obj), last, value)


def filter_dict_by_prefix(dictionary: dict[str, Any], prefix: str) -> dict[str, Any]:
    """Entries below `prefix`, under their names from there on.

    Examples
    --------
    >>> filter_dict_by_prefix({"blocks.0.attn": 1, "blocks.0.mlp": 2, "blocks.01": 3}, "blocks.0")
    {'attn': 1, 'mlp': 2}
    """
    prefix = prefix if prefix.endswith(".") else f"{prefix}."
    return {name[len(prefix) :]: value for name, value in dictionary.items() if name.startswith(prefix)}
