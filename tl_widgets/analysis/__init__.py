"""What a model does, measured, and how it learns: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis import evals, head_detector
from tl_widgets.analysis.attribution import DirectLogitAttribution, direct_logit_attribution
from tl_widgets.analysis.comparison import Comparison, compare_with_hf
from tl_widgets.analysis.svd import SVDInterpreter
from tl_widgets.analysis.train import HookedTransformerTrainConfig, train

__all__ = [
    "Comparison",
    "DirectLogitAttribution",
    "HookedTransformerTrainConfig",
    "SVDInterpreter",
    "compare_with_hf",
    "direct_logit_attribution",
    "evals",
    "head_detector",
    "train",
]
