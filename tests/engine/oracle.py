"""The oracle: the same random weights in TransformerLens's HookedTransformer and in ours."""

from __future__ import annotations

import copy

import torch
import transformer_lens

from tl_widgets import HookedTransformer

SMALL = dict(n_layers=2, d_model=16, n_heads=4, d_head=4, d_mlp=64, n_ctx=32, d_vocab=50, seed=0, device="cpu")
GPT2_LIKE = SMALL | dict(act_fn="gelu_new")
LLAMA_LIKE = SMALL | dict(
    act_fn="silu",
    normalization_type="RMS",
    positional_embedding_type="rotary",
    rotary_dim=4,
    gated_mlp=True,
    final_rms=True,
)
YARN = dict(
    use_yarn_rope=True, yarn_factor=4.0, yarn_original_max_position_embeddings=64, yarn_attention_factor=1.3,
    yarn_beta_fast=8.0, rotary_base=100.0, d_head=8, rotary_dim=8,
)  # fmt: skip

CONFIGS = {
    "gpt2-like": GPT2_LIKE,
    "gpt2-like folded": GPT2_LIKE | dict(normalization_type="LNPre"),
    "gpt2-like relu": GPT2_LIKE | dict(act_fn="relu"),
    "no norm": GPT2_LIKE | dict(normalization_type=None),
    "attention only": SMALL | dict(attn_only=True),
    "parallel, partial rotary": GPT2_LIKE
    | dict(positional_embedding_type="rotary", rotary_dim=2, parallel_attn_mlp=True),
    "adjacent rotary pairs": GPT2_LIKE
    | dict(positional_embedding_type="rotary", rotary_dim=4, rotary_adjacent_pairs=True),
    "scores scaled by layer": GPT2_LIKE | dict(scale_attn_by_inverse_layer_idx=True),
    "local attention": GPT2_LIKE | dict(use_local_attn=True, window_size=3, attn_types=["global", "local"]),
    "soft caps": GPT2_LIKE | dict(attn_scores_soft_cap=2.0, output_logits_soft_cap=1.5),
    "llama-like": LLAMA_LIKE,
    "llama-like grouped": LLAMA_LIKE | dict(n_key_value_heads=2),
    "llama-like folded": LLAMA_LIKE | dict(normalization_type="RMSPre", n_key_value_heads=2),
    "llama 3 rope": LLAMA_LIKE | dict(use_NTK_by_parts_rope=True, NTK_original_ctx_len=16, rotary_base=500.0),
    "every optional point": GPT2_LIKE | dict(use_attn_result=True, use_split_qkv_input=True, use_hook_mlp_in=True),
    "attn_in": GPT2_LIKE | dict(use_attn_in=True),
    "grouped, split inputs": LLAMA_LIKE | dict(n_key_value_heads=2, use_split_qkv_input=True),
    "post-norms": LLAMA_LIKE | dict(use_normalization_before_and_after=True),
    "post-norms, folded": LLAMA_LIKE | dict(use_normalization_before_and_after=True, normalization_type="RMSPre"),
    "post-norms, parallel": LLAMA_LIKE | dict(use_normalization_before_and_after=True, parallel_attn_mlp=True),
    "post-norms without norms": GPT2_LIKE | dict(use_normalization_before_and_after=True, normalization_type=None),
    "query/key norm": LLAMA_LIKE | dict(use_qk_norm=True, n_key_value_heads=2),
    "query/key norm, LayerNorm": GPT2_LIKE | dict(use_qk_norm=True),
    "alibi": GPT2_LIKE | dict(positional_embedding_type="alibi"),
    "alibi, six heads": GPT2_LIKE | dict(positional_embedding_type="alibi", n_heads=6),
    "alibi, embedding norm": GPT2_LIKE | dict(positional_embedding_type="alibi", post_embedding_ln=True),
    "embedding norm, folded": GPT2_LIKE | dict(post_embedding_ln=True, normalization_type="LNPre"),
    "embedding norm, RMS": LLAMA_LIKE | dict(post_embedding_ln=True),
    "alibi, soft cap": GPT2_LIKE | dict(positional_embedding_type="alibi", attn_scores_soft_cap=2.0),
    "shortformer": GPT2_LIKE | dict(positional_embedding_type="shortformer"),
    "shortformer, attention only": SMALL | dict(positional_embedding_type="shortformer", attn_only=True),
    "solu_ln": GPT2_LIKE | dict(act_fn="solu_ln"),
    "solu_ln, folded": GPT2_LIKE | dict(act_fn="solu_ln", normalization_type="LNPre"),
    "solu_ln, RMS": GPT2_LIKE | dict(act_fn="solu_ln", normalization_type="RMS"),
    **{
        f"act_fn {name}": GPT2_LIKE | dict(act_fn=name)
        for name in ("gelu", "gelu_fast", "gelu_pytorch_tanh", "silu", "solu", "relu2", "xielu")
    },
    "experts": LLAMA_LIKE | dict(num_experts=4, experts_per_token=2),
    "experts, weights sum to one": LLAMA_LIKE | dict(num_experts=4, experts_per_token=3, norm_topk_prob=True),
    "experts, LayerNorm": GPT2_LIKE | dict(num_experts=4, experts_per_token=1),
    "attention sinks": LLAMA_LIKE | dict(use_attention_sinks=True, n_key_value_heads=2),
    "ungrouped": LLAMA_LIKE | dict(n_key_value_heads=2, ungroup_grouped_query_attention=True, use_attn_result=True),
    "ungrouped, split inputs": LLAMA_LIKE
    | dict(n_key_value_heads=2, ungroup_grouped_query_attention=True, use_split_qkv_input=True, use_qk_norm=True),
    "another base in local layers": LLAMA_LIKE
    | dict(rotary_base_local=100, use_local_attn=True, window_size=3, attn_types=["global", "local"]),
    "another base in local layers, scaled": LLAMA_LIKE
    | dict(rotary_base_local=100, use_local_attn=True, window_size=3, attn_types=["global", "local"])
    | dict(rotary_scaling_factor=4.0),
    "yarn": LLAMA_LIKE | YARN,
    "yarn, not truncated": LLAMA_LIKE | YARN | dict(yarn_truncate=False),
    "yarn in global layers": LLAMA_LIKE
    | YARN
    | dict(yarn_global_attn_only=True, use_local_attn=True, window_size=3, attn_types=["local", "global"]),
    "clipped": LLAMA_LIKE | dict(clip_qkv=0.3, n_key_value_heads=2),
    "clipped, query/key norm": LLAMA_LIKE | dict(clip_qkv=0.3, use_qk_norm=True),
    "bidirectional": GPT2_LIKE | dict(attention_dir="bidirectional"),
    "bidirectional, rotary": LLAMA_LIKE | dict(attention_dir="bidirectional", n_key_value_heads=2),
}

# A bidirectional model has nothing to continue; the oracle's cache is too small for ungrouped keys.
CAUSAL = {name: config for name, config in CONFIGS.items() if config.get("attention_dir") != "bidirectional"}
CACHED_BY_THE_ORACLE = {name: config for name, config in CAUSAL.items() if not name.startswith("ungrouped")}

# What the oracle's state dict carries beside weights.
BUFFERS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")


def pair(config: dict, scale: float = 1.0) -> tuple[transformer_lens.HookedTransformer, HookedTransformer]:
    """The oracle and ours with the same random weights, biases and gains included (never zero: zeros hide faults)."""
    theirs = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**copy.deepcopy(config)))
    generator = torch.Generator().manual_seed(1)
    for _, parameter in sorted(theirs.named_parameters()):
        parameter.data += scale * 0.3 * torch.randn(parameter.shape, generator=generator)
    ours = HookedTransformer(copy.deepcopy(config))
    ours.load_state_dict(weights_of(theirs))
    return theirs, ours


def weights_of(theirs: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: t for name, t in theirs.state_dict().items() if name.rsplit(".", 1)[-1] not in BUFFERS}
