"""What a model does, measured: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis.attribution import DirectLogitAttribution, direct_logit_attribution
from tl_widgets.analysis.svd import SVDInterpreter

__all__ = ["DirectLogitAttribution", "SVDInterpreter", "direct_logit_attribution"]
