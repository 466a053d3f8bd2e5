"""What a model does, measured, and how it learns: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis.svd import SVDInterpreter
from tl_widgets.analysis.train import HookedTransformerTrainConfig, train

__all__ = ["HookedTransformerTrainConfig", "SVDInterpreter", "train"]
