"""How results show at the end of a cell."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass
class Options:
    """Set ``tl_widgets.options.display = "text"`` for text in place of views."""

    display: Literal["view", "text"] = "view"


options = Options()
