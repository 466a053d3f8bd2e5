"""What a model does, measured: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis import evals, head_detector
from tl_widgets.analysis.comparison import Comparison, compare_with_hf
from tl_widgets.analysis.svd import SVDInterpreter

__all__ = ["Comparison", "SVDInterpreter", "compare_with_hf", "evals", "head_detector"]
