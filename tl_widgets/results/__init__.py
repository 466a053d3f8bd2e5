"""Numbers that know their axes, and what becomes of them: tables and figures."""

from tl_widgets.results.labels import axes_of_positions, layers_and_heads, position_labels, token_text
from tl_widgets.results.result import Result

__all__ = ["Result", "axes_of_positions", "layers_and_heads", "position_labels", "token_text"]
