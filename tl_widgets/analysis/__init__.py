"""What a model does, measured, and how it learns: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis import evals, head_detector
from tl_widgets.analysis.attribution import DirectLogitAttribution, direct_logit_attribution
from tl_widgets.analysis.comparison import Comparison, compare_with_hf
from tl_widgets.analysis.heads import attention_entropy, head_scores
from tl_widgets.analysis.lens import LogitLens, logit_lens
from tl_widgets.analysis.neurons import TopNeurons, top_neurons
from tl_widgets.analysis.norms import component_norms
from tl_widgets.analysis.svd import SVDInterpreter
from tl_widgets.analysis.train import HookedTransformerTrainConfig, train

__all__ = [
    "Comparison",
    "DirectLogitAttribution",
    "HookedTransformerTrainConfig",
    "LogitLens",
    "SVDInterpreter",
    "TopNeurons",
    "attention_entropy",
    "compare_with_hf",
    "component_norms",
    "direct_logit_attribution",
    "evals",
    "head_detector",
    "head_scores",
    "logit_lens",
    "top_neurons",
    "train",
]
