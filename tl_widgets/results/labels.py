"""What the entries of an axis are called: positions by their tokens, tokens by their text."""

from __future__ import annotations

from typing import Any

import numpy as np

from tl_widgets.cache import ActivationCache
from tl_widgets.math.slice import Slice, SliceInput


def axes_of_positions(cache: ActivationCache, n_dims: int) -> tuple[str, ...]:
    """Names of the batch and position axes that an activation has in this cache, `n_dims` of them in all."""
    return (("batch",) if cache.has_batch_dim else ()) + (("pos",) if n_dims > cache.has_batch_dim else ())


def position_labels(cache: ActivationCache, n_pos: int, pos_slice: Slice | SliceInput = None) -> dict[str, list[str]]:
    """``{"pos": [" The", " Eiffel", ...]}``, where the cache is of one prompt whose text is known; else nothing.

    `pos_slice` is what picked the `n_pos` positions.
    """
    if cache.tokens is None or len(cache.tokens) != 1 or getattr(cache.model, "tokenizer", None) is None:
        return {}
    held = cache.positions.apply(cache.tokens[0])
    picked = np.atleast_1d(Slice.unwrap(pos_slice).apply(held).cpu().numpy())
    return {"pos": cache.model.to_str_tokens(picked)} if len(picked) == n_pos else {}


def token_text(model: Any, token: int) -> str:
    """What a token reads; its id where there is no tokenizer."""
    return str(token) if getattr(model, "tokenizer", None) is None else model.to_single_str_token(token)


def layers_and_heads(n_layers: int, n_heads: int) -> dict[str, list[str]]:
    """``{"layer": ["L0", ...], "head": ["H0", ...]}``."""
    return {"layer": [f"L{i}" for i in range(n_layers)], "head": [f"H{i}" for i in range(n_heads)]}
