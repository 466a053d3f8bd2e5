"""See and change what is inside a language model, in the notebook cell you are already in.

>>> from tl_widgets import HookedTransformer
>>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
>>> logits, cache = model.run_with_cache([3, 1, 4])
>>> cache["pattern", 0].shape  # batch, head, query position, key position
torch.Size([1, 4, 3, 3])
"""

from tl_widgets import patching, utils
from tl_widgets.analysis import (
    Comparison,
    DirectLogitAttribution,
    HookedTransformerTrainConfig,
    LogitLens,
    SVDInterpreter,
    TopNeurons,
    attention_entropy,
    compare_with_hf,
    component_norms,
    direct_logit_attribution,
    head_scores,
    logit_lens,
    top_neurons,
    train,
)
from tl_widgets.cache import ActivationCache, LazyActivationCache
from tl_widgets.compat import add_modules, as_transformer_lens
from tl_widgets.config import HookedTransformerConfig
from tl_widgets.display import options
from tl_widgets.hooks import HookedRootModule, HookPoint
from tl_widgets.math import FactoredMatrix
from tl_widgets.results import Result
from tl_widgets.text import (
    HookedTransformerKeyValueCache,
    HookedTransformerKeyValueCacheEntry,
    TransformerLensKeyValueCache,
    TransformerLensKeyValueCacheEntry,
)
from tl_widgets.transformer import HookedTransformer

__version__ = "0.1.0"

add_modules(__name__)  # `tl_widgets.hook_points` and its kin, for code whose import alone is renamed

__all__ = [
    "ActivationCache",
    "Comparison",
    "DirectLogitAttribution",
    "FactoredMatrix",
    "HookPoint",
    "HookedRootModule",
    "HookedTransformer",
    "HookedTransformerConfig",
    "HookedTransformerKeyValueCache",
    "HookedTransformerKeyValueCacheEntry",
    "HookedTransformerTrainConfig",
    "LazyActivationCache",
    "LogitLens",
    "Result",
    "SVDInterpreter",
    "TopNeurons",
    "TransformerLensKeyValueCache",
    "TransformerLensKeyValueCacheEntry",
    "as_transformer_lens",
    "attention_entropy",
    "compare_with_hf",
    "component_norms",
    "direct_logit_attribution",
    "head_scores",
    "logit_lens",
    "options",
    "patching",
    "top_neurons",
    "train",
    "utils",
]
