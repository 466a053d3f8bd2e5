"""The field's `utils` names, gathered from the rooms that define them."""

from tl_widgets.cache.names import get_act_name
from tl_widgets.calls import select_compatible_kwargs
from tl_widgets.config import default_device as get_device
from tl_widgets.environment import (
    calculate_available_device_cuda_memory,
    determine_available_memory_for_available_devices,
    get_best_available_cuda_device,
    is_library_available,
    print_gpu_mem,
    sort_devices_based_on_available_memory,
    warn_if_mps,
)
from tl_widgets.loading.families.family import get_rotary_pct_from_config
from tl_widgets.loading.hub import clear_huggingface_cache, download_file_from_hf
from tl_widgets.loading.placement import count_unique_devices, find_embedding_device, resolve_device_map
from tl_widgets.math.activations import apply_softcap, gelu_fast, gelu_new, softcap_enabled, solu
from tl_widgets.math.composition import composition_scores
from tl_widgets.math.losses import lm_accuracy, lm_cross_entropy_loss
from tl_widgets.math.slice import Slice
from tl_widgets.math.slice import SliceInput as SliceInput
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
from tl_widgets.network.devices import get_best_available_device, get_device_for_block_index, move_to_and_update_config
from tl_widgets.network.init import (
    calc_fan_in_and_fan_out,
    init_kaiming_normal_,
    init_kaiming_uniform_,
    init_xavier_normal_,
    init_xavier_uniform_,
)
from tl_widgets.network.masking import get_offset_position_ids
from tl_widgets.network.paths import filter_dict_by_prefix, get_nested_attr, set_nested_attr
from tl_widgets.network.weights import temporarily_swap_parameter
from tl_widgets.text.bos import (
    get_input_with_manually_prepended_bos,
    get_tokenizer_with_bos,
    get_tokens_with_bos_removed,
)
from tl_widgets.text.corpus import get_dataset, keep_single_column, tokenize_and_concatenate
from tl_widgets.text.defaults import LocallyOverridenDefaults, override_or_use_default_value
from tl_widgets.text.readout import logits_to_df
from tl_widgets.text.readout import try_prompt as test_prompt
from tl_widgets.text.sampling import sample_logits
from tl_widgets.text.tokens import padding_mask as get_attention_mask

test_prompt.__test__ = False  # type: ignore[attr-defined]  # no test of pytest's where a test module imports it

__all__ = [
    "LocallyOverridenDefaults",
    "Slice",
    "apply_softcap",
    "calc_fan_in_and_fan_out",
    "calculate_available_device_cuda_memory",
    "check_structure",
    "clear_huggingface_cache",
    "composition_scores",
    "count_unique_devices",
    "determine_available_memory_for_available_devices",
    "download_file_from_hf",
    "filter_dict_by_prefix",
    "find_embedding_device",
    "gelu_fast",
    "gelu_new",
    "get_act_name",
    "get_attention_mask",
    "get_best_available_cuda_device",
    "get_best_available_device",
    "get_corner",
    "get_cumsum_along_dim",
    "get_dataset",
    "get_device",
    "get_device_for_block_index",
    "get_input_with_manually_prepended_bos",
    "get_matrix_corner",
    "get_nested_attr",
    "get_offset_position_ids",
    "get_rotary_pct_from_config",
    "get_tokenizer_with_bos",
    "get_tokens_with_bos_removed",
    "init_kaiming_normal_",
    "init_kaiming_uniform_",
    "init_xavier_normal_",
    "init_xavier_uniform_",
    "is_library_available",
    "is_lower_triangular",
    "is_square",
    "keep_single_column",
    "lm_accuracy",
    "lm_cross_entropy_loss",
    "logits_to_df",
    "move_to_and_update_config",
    "override_or_use_default_value",
    "print_gpu_mem",
    "remove_batch_dim",
    "repeat_along_head_dimension",
    "resolve_device_map",
    "sample_logits",
    "select_compatible_kwargs",
    "set_nested_attr",
    "softcap_enabled",
    "solu",
    "sort_devices_based_on_available_memory",
    "temporarily_swap_parameter",
    "test_prompt",
    "to_numpy",
    "tokenize_and_concatenate",
    "transpose",
    "warn_if_mps",
]
