"""What a model does, measured, and how it learns: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis import evals, head_detector
from tl_widgets.analysis.comparison import Comparison, compare_with_hf
from tl_widgets.analysis.svd import SVDInterpreter
from tl_widgets.analysis.train import HookedTransformerTrainConfig, train

__all__ = [
    "Comparison",
    "HookedTransformerTrainConfig",
    "SVDInterpreter",
    "compare_with_hf",
    "evals",
    "head_detector",
    "train",
]
