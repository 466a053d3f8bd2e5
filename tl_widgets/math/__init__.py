"""Small mathematics that knows no model."""

from tl_widgets.math.losses import lm_cross_entropy_loss
from tl_widgets.math.slice import Slice, SliceInput

__all__ = ["Slice", "SliceInput", "lm_cross_entropy_loss"]
