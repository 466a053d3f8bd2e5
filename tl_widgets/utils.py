"""The field's `utils` names, gathered from the rooms that define them."""

from tl_widgets.cache.names import get_act_name
from tl_widgets.math.activations import gelu_fast, gelu_new, solu
from tl_widgets.math.losses import lm_cross_entropy_loss
from tl_widgets.math.slice import Slice
from tl_widgets.text.sampling import sample_logits
from tl_widgets.text.tokens import padding_mask as get_attention_mask

__all__ = [
    "Slice",
    "gelu_fast",
    "gelu_new",
    "get_act_name",
    "get_attention_mask",
    "lm_cross_entropy_loss",
    "sample_logits",
    "solu",
]
