"""Llama 1, 2, 3 and what shares their architecture (SmolLM 1 and 2, Vicuna, CodeLlama)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import CannotLoad
from tl_widgets.loading.families.family import Family, Weights, split_bias, split_heads_in, split_heads_out


def config(hf: Any) -> dict[str, Any]:
    """Read a ``LlamaConfig``."""
    if getattr(hf, "mlp_bias", False):
        raise CannotLoad("A Llama with biases in its gated MLP (mlp_bias=True) has no counterpart in this vocabulary.")
    n_kv_heads = hf.num_key_value_heads
    return dict(
        n_layers=hf.num_hidden_layers,
        d_model=hf.hidden_size,
        n_heads=hf.num_attention_heads,
        n_key_value_heads=None if n_kv_heads == hf.num_attention_heads else n_kv_heads,
        d_head=getattr(hf, "head_dim", None) or hf.hidden_size // hf.num_attention_heads,
        d_mlp=hf.intermediate_size,
        n_ctx=hf.max_position_embeddings,
        d_vocab=hf.vocab_size,
        act_fn=hf.hidden_act,
        eps=hf.rms_norm_eps,
        normalization_type="RMS",
        final_rms=True,
        gated_mlp=True,
        positional_embedding_type="rotary",
        **rope(hf),
    )


def rope(hf: Any) -> dict[str, Any]:
    """Rotary settings, from transformers 5's one dict or the older pair of attributes."""
    given = dict(getattr(hf, "rope_parameters", None) or {}) or {
        "rope_theta": hf.rope_theta,
        **(getattr(hf, "rope_scaling", None) or {}),
    }
    base = {"rotary_base": given.get("rope_theta", 10000.0)}
    kind = given.get("rope_type", given.get("type", "default"))
    kinds = {
        "default": dict,
        "linear": lambda: {"rotary_scaling_factor": given["factor"]},
        "llama3": lambda: {
            "use_NTK_by_parts_rope": True,
            "NTK_by_parts_factor": given["factor"],
            "NTK_by_parts_low_freq_factor": given["low_freq_factor"],
            "NTK_by_parts_high_freq_factor": given["high_freq_factor"],
            "NTK_original_ctx_len": given["original_max_position_embeddings"],
        },
    }
    if kind not in kinds:
        raise CannotLoad(f"Rotary scaling {kind!r} is not known here; there is {', '.join(kinds)}.")
    return base | kinds[kind]()


def weights(cfg: HookedTransformerConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """Read the weights, one by one."""
    grouped = "" if cfg.n_key_value_heads is None else "_"
    yield "embed.W_E", tensors["model.embed_tokens.weight"]
    for layer in range(cfg.n_layers):
        ours, theirs = f"blocks.{layer}", f"model.layers.{layer}"
        yield f"{ours}.ln1.w", tensors[f"{theirs}.input_layernorm.weight"]
        yield f"{ours}.ln2.w", tensors[f"{theirs}.post_attention_layernorm.weight"]
        for name, stored, n_heads in (
            ("Q", "", cfg.n_heads),
            ("K", grouped, cfg.n_kv_heads),
            ("V", grouped, cfg.n_kv_heads),
        ):
            projection = f"{theirs}.self_attn.{name.lower()}_proj"
            yield f"{ours}.attn.{stored}W_{name}", split_heads_in(tensors[f"{projection}.weight"], n_heads)
            if f"{projection}.bias" in tensors:
                yield f"{ours}.attn.{stored}b_{name}", split_bias(tensors[f"{projection}.bias"], n_heads)
        yield f"{ours}.attn.W_O", split_heads_out(tensors[f"{theirs}.self_attn.o_proj.weight"], cfg.n_heads)
        if f"{theirs}.self_attn.o_proj.bias" in tensors:
            yield f"{ours}.attn.b_O", tensors[f"{theirs}.self_attn.o_proj.bias"]
        for name, projection in (("gate", "gate_proj"), ("in", "up_proj"), ("out", "down_proj")):
            yield f"{ours}.mlp.W_{name}", tensors[f"{theirs}.mlp.{projection}.weight"].T
    yield "ln_final.w", tensors["model.norm.weight"]
    unembed = "lm_head.weight" if "lm_head.weight" in tensors else "model.embed_tokens.weight"
    yield "unembed.W_U", tensors[unembed].T


FAMILY = Family(architectures=("LlamaForCausalLM",), config=config, weights=weights)
