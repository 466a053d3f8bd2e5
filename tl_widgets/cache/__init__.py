"""What a run left behind: `ActivationCache` and the names of activations."""

from tl_widgets.cache.activation_cache import ActivationCache
from tl_widgets.cache.lazy_cache import LazyActivationCache
from tl_widgets.cache.names import get_act_name

__all__ = ["ActivationCache", "LazyActivationCache", "get_act_name"]
