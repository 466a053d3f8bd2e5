"""The field's `utils` names, gathered from the rooms that define them."""

from tl_widgets.cache.names import get_act_name
from tl_widgets.config import default_device as get_device
from tl_widgets.environment import is_library_available, print_gpu_mem
from tl_widgets.math.activations import gelu_fast, gelu_new, solu
from tl_widgets.math.composition import composition_scores
from tl_widgets.math.losses import lm_accuracy, lm_cross_entropy_loss
from tl_widgets.math.slice import Slice
from tl_widgets.math.tensors import (
    check_structure,
    get_corner,
    get_cumsum_along_dim,
    get_matrix_corner,
    is_lower_triangular,
    is_square,
    remove_batch_dim,
    repeat_along_head_dimension,
    to_numpy,
    transpose,
)
from tl_widgets.network.init import (
    calc_fan_in_and_fan_out,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)
from tl_widgets.network.paths import filter_dict_by_prefix, get_nested_attr, set_nested_attr
from tl_widgets.text.corpus import tokenize_and_concatenate
from tl_widgets.text.defaults import LocallyOverridenDefaults, override_or_use_default_value
from tl_widgets.text.readout import logits_to_df
from tl_widgets.text.readout import try_prompt as test_prompt
from tl_widgets.text.sampling import sample_logits
from tl_widgets.text.tokens import padding_mask as get_attention_mask

test_prompt.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's where a test module imports it

__all__ = [
    "LocallyOverridenDefaults",
    "Slice",
    "calc_fan_in_and_fan_out",
    "check_structure",
    "composition_scores",
    "filter_dict_by_prefix",
    "gelu_fast",
    "gelu_new",
    "get_act_name",
    "get_attention_mask",
    "get_corner",
    "get_cumsum_along_dim",
    "get_device",
    "get_matrix_corner",
    "get_nested_attr",
    "init_kaiming_normal_",
    "init_kaiming_uniform_",
    "init_xavier_normal_",
    "init_xavier_uniform_",
    "is_library_available",
    "is_lower_triangular",
    "is_square",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "logits_to_df",
    "override_or_use_default_value",
    "print_gpu_mem",
    "remove_batch_dim",
    "repeat_along_head_dimension",
    "sample_logits",
    "set_nested_attr",
    "solu",
    "test_prompt",
    "to_numpy",
    "tokenize_and_concatenate",
    "transpose",
]
