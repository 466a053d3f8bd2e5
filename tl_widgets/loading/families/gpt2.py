"""GPT-2 and its kin (DistilGPT-2, Stanford CRFM's)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.loading.families.family import Family, Weights, split_bias, split_heads_in, split_heads_out


def config(hf: Any) -> dict[str, Any]:
    """Read a ``GPT2Config``."""
    return dict(
        n_layers=hf.n_layer,
        d_model=hf.n_embd,
        n_heads=hf.n_head,
        d_head=hf.n_embd // hf.n_head,
        d_mlp=hf.n_inner or 4 * hf.n_embd,
        n_ctx=hf.n_positions,
        d_vocab=hf.vocab_size,
        act_fn=hf.activation_function,
        eps=hf.layer_norm_epsilon,
        normalization_type="LN",
        use_attn_scale=hf.scale_attn_weights,
        scale_attn_by_inverse_layer_idx=hf.scale_attn_by_inverse_layer_idx,
    )


def weights(cfg: HookedTransformerConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """Read the weights, one by one."""
    # The hub's own gpt2 was saved without the "transformer." that transformers writes today.
    root = "transformer." if "transformer.wte.weight" in tensors else ""
    yield "embed.W_E", tensors[f"{root}wte.weight"]
    yield "pos_embed.W_pos", tensors[f"{root}wpe.weight"][: cfg.n_ctx]
    for layer in range(cfg.n_layers):
        ours, theirs = f"blocks.{layer}", f"{root}h.{layer}"
        for norm, name in (("ln1", "ln_1"), ("ln2", "ln_2")):
            yield f"{ours}.{norm}.w", tensors[f"{theirs}.{name}.weight"]
            yield f"{ours}.{norm}.b", tensors[f"{theirs}.{name}.bias"]
        # GPT-2's Conv1D weights are [in, out], queries, keys and values side by side.
        for name, weight in zip("QKV", tensors[f"{theirs}.attn.c_attn.weight"].T.chunk(3), strict=True):
            yield f"{ours}.attn.W_{name}", split_heads_in(weight, cfg.n_heads)
        for name, bias in zip("QKV", tensors[f"{theirs}.attn.c_attn.bias"].chunk(3), strict=True):
            yield f"{ours}.attn.b_{name}", split_bias(bias, cfg.n_heads)
        yield f"{ours}.attn.W_O", split_heads_out(tensors[f"{theirs}.attn.c_proj.weight"].T, cfg.n_heads)
        yield f"{ours}.attn.b_O", tensors[f"{theirs}.attn.c_proj.bias"]
        for name, conv in (("in", "c_fc"), ("out", "c_proj")):
            yield f"{ours}.mlp.W_{name}", tensors[f"{theirs}.mlp.{conv}.weight"]
            yield f"{ours}.mlp.b_{name}", tensors[f"{theirs}.mlp.{conv}.bias"]
    yield "ln_final.w", tensors[f"{root}ln_f.weight"]
    yield "ln_final.b", tensors[f"{root}ln_f.bias"]
    unembed = tensors["lm_head.weight"] if "lm_head.weight" in tensors else tensors[f"{root}wte.weight"]
    yield "unembed.W_U", unembed.T


FAMILY = Family(architectures=("GPT2LMHeadModel",), config=config, weights=weights)
