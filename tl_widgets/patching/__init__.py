"""Activation patching: which activation carries the answer.

>>> from tl_widgets import HookedTransformer, patching
>>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
>>> _, clean_cache = model.run_with_cache([3, 1, 4])
>>> metric = patching.LogitDiff(answer=7, wrong=9)
>>> patching.get_act_patch_resid_pre(model, [3, 5, 4], clean_cache, metric, progress=False).shape  # layer, pos
torch.Size([2, 3])
"""

from tl_widgets.patching.approximate import AttributionPatchingResult, attribution_patch
from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.functions import (
    generic_activation_patch,
    get_act_patch_attn_head_all_pos_every,
    get_act_patch_attn_head_by_pos_every,
    get_act_patch_attn_head_k_all_pos,
    get_act_patch_attn_head_k_by_pos,
    get_act_patch_attn_head_out_all_pos,
    get_act_patch_attn_head_out_by_pos,
    get_act_patch_attn_head_pattern_all_pos,
    get_act_patch_attn_head_pattern_by_pos,
    get_act_patch_attn_head_pattern_dest_src_pos,
    get_act_patch_attn_head_q_all_pos,
    get_act_patch_attn_head_q_by_pos,
    get_act_patch_attn_head_v_all_pos,
    get_act_patch_attn_head_v_by_pos,
    get_act_patch_attn_out,
    get_act_patch_block_every,
    get_act_patch_mlp_out,
    get_act_patch_resid_mid,
    get_act_patch_resid_pre,
)
from tl_widgets.patching.indices import make_df_from_ranges
from tl_widgets.patching.metrics import AnswerLogit, AnswerProb, KLFromClean, LogitDiff, Loss, Metric
from tl_widgets.patching.pair import PatchingPair
from tl_widgets.patching.paths import path_patch
from tl_widgets.patching.result import Baselines, Interval, PatchingResult
from tl_widgets.patching.setters import (
    layer_head_dest_src_pos_pattern_patch_setter,
    layer_head_pattern_patch_setter,
    layer_head_pos_pattern_patch_setter,
    layer_head_vector_patch_setter,
    layer_pos_head_vector_patch_setter,
    layer_pos_patch_setter,
)
from tl_widgets.patching.sweep import sweep

__all__ = [
    "AnswerLogit",
    "AnswerProb",
    "AttributionPatchingResult",
    "Baselines",
    "CorruptedRun",
    "Interval",
    "KLFromClean",
    "LogitDiff",
    "Loss",
    "Metric",
    "PatchingPair",
    "PatchingResult",
    "attribution_patch",
    "generic_activation_patch",
    "get_act_patch_attn_head_all_pos_every",
    "get_act_patch_attn_head_by_pos_every",
    "get_act_patch_attn_head_k_all_pos",
    "get_act_patch_attn_head_k_by_pos",
    "get_act_patch_attn_head_out_all_pos",
    "get_act_patch_attn_head_out_by_pos",
    "get_act_patch_attn_head_pattern_all_pos",
    "get_act_patch_attn_head_pattern_by_pos",
    "get_act_patch_attn_head_pattern_dest_src_pos",
    "get_act_patch_attn_head_q_all_pos",
    "get_act_patch_attn_head_q_by_pos",
    "get_act_patch_attn_head_v_all_pos",
    "get_act_patch_attn_head_v_by_pos",
    "get_act_patch_attn_out",
    "get_act_patch_block_every",
    "get_act_patch_mlp_out",
    "get_act_patch_resid_mid",
    "get_act_patch_resid_pre",
    "layer_head_dest_src_pos_pattern_patch_setter",
    "layer_head_pattern_patch_setter",
    "layer_head_pos_pattern_patch_setter",
    "layer_head_vector_patch_setter",
    "layer_pos_head_vector_patch_setter",
    "layer_pos_patch_setter",
    "make_df_from_ranges",
    "path_patch",
    "sweep",
]
