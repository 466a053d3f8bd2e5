"""Keyword arguments sorted by the function that takes them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any


def select_compatible_kwargs(kwargs_dict: dict[str, Any], callable: Callable) -> dict[str, Any]:
    """Those of `kwargs_dict` that name a parameter of `callable`; what it takes as ``**kwargs`` is not named.

    Examples
    --------
    >>> def run(prompt, top_k=None, **others): ...
    >>> select_compatible_kwargs({"top_k": 5, "top_p": 0.9}, run)
    {'top_k': 5}
    """
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    named = {name for name, p in inspect.signature(callable).parameters.items() if p.kind in by_name}
    return {name: value for name, value in kwargs_dict.items() if name in named}
