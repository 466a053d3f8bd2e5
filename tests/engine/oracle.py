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
}

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
