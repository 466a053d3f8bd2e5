"""What a model family is: data that says how its transformers config and weights read in our terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from einops import rearrange
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig

Weights = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes
    ----------
    architectures
        The transformers classes whose weights it reads (or our own).
    config
        The source's config -> keyword arguments of `HookedTransformerConfig`.
    weights
        ``(cfg, tensors)`` -> pairs of our parameter's name and a tensor of its shape, read one by one. A bias that
        does not come stays zero.
    """

    architectures: tuple[str, ...]
    config: Callable[[Any], dict[str, Any]]
    weights: Callable[[HookedTransformerConfig, Mapping[str, Tensor]], Weights]


def split_heads_in(weight: Tensor, n_heads: int) -> Tensor:
    """Rows by head -> the field's ``[n_heads, d_model, d_head]``, without a copy."""
    return rearrange(weight, "(head d_head) d_model -> head d_model d_head", head=n_heads)


def split_heads_out(weight: Tensor, n_heads: int) -> Tensor:
    """Columns by head -> the field's ``[n_heads, d_head, d_model]``, without a copy."""
    return rearrange(weight, "d_model (head d_head) -> head d_head d_model", head=n_heads)


def split_bias(bias: Tensor, n_heads: int) -> Tensor:
    """One bias for all heads -> ``[n_heads, d_head]``."""
    return rearrange(bias, "(head d_head) -> head d_head", head=n_heads)


def get_rotary_pct_from_config(config: Any) -> float:
    """Return the share of each head's dimensions that a transformers config turns by position; 1 where it says nothing.

    Examples
    --------
    >>> import transformers
    >>> get_rotary_pct_from_config(transformers.GPTNeoXConfig(rotary_pct=0.25))
    0.25
    """
    share = getattr(config, "rotary_pct", None)  # before transformers 5
    if share is None:
        share = (getattr(config, "rope_parameters", None) or {}).get("partial_rotary_factor")
    return 1.0 if share is None else share
