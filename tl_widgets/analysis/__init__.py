"""What a model does, measured: tools on top of a whole `HookedTransformer`."""

from tl_widgets.analysis.svd import SVDInterpreter

__all__ = ["SVDInterpreter"]
