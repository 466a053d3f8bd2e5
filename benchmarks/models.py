"""The models that are compared: GPT-2 small's shape, one set of random weights for all."""

from __future__ import annotations

from typing import Any

import torch
import transformers

from tl_widgets import HookedTransformer


def ours_and_transformers() -> tuple[HookedTransformer, Any]:
    """Return our model, and the transformers model whose weights it took."""
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    return HookedTransformer.from_pretrained_no_processing("gpt2", hf_model=hf), hf


def the_oracle(ours: HookedTransformer) -> Any:
    """Return TransformerLens's model with the same weights, or None where it is not installed."""
    try:
        import transformer_lens
    except ImportError:
        print("(transformer-lens is not installed: it is left out)")
        return None
    cfg = {name: getattr(ours.cfg, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")}
    theirs = transformer_lens.HookedTransformer(
        transformer_lens.HookedTransformerConfig(**cfg, d_vocab=ours.cfg.d_vocab, act_fn="gelu_new", device="cpu")
    )
    theirs.load_state_dict(ours.state_dict(), strict=False)
    return theirs
