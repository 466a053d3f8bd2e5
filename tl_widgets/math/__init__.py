"""Small mathematics that knows no model."""

from tl_widgets.math.composition import composition_scores
from tl_widgets.math.factored_matrix import FactoredMatrix
from tl_widgets.math.losses import lm_accuracy, lm_cross_entropy_loss
from tl_widgets.math.slice import Slice, SliceInput

__all__ = ["FactoredMatrix", "Slice", "SliceInput", "composition_scores", "lm_accuracy", "lm_cross_entropy_loss"]
