"""How results show at the end of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tl_widgets.errors import BadInput, unknown

_CHOICES = {"display": ("view", "text")}


@dataclass
class Options:
    """Set ``tl_widgets.options.display = "text"`` for text in place of views.

    Examples
    --------
    >>> options.display = "txt"
    Traceback (most recent call last):
    tl_widgets.errors.BadInput: options.display is 'view' or 'text', not 'txt'.
    """

    display: Literal["view", "text"] = "view"

    def __setattr__(self, name: str, value: Any) -> None:
        if name not in _CHOICES:
            raise unknown("option", name, _CHOICES)
        if value not in _CHOICES[name]:
            raise BadInput(f"options.{name} is {' or '.join(map(repr, _CHOICES[name]))}, not {value!r}.")
        super().__setattr__(name, value)


options = Options()
