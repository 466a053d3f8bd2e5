"""What a model family is: data that says how its transformers config and weights read in our terms."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from tl_widgets.config import HookedTransformerConfig

Weights = Iterator[tuple[str, Tensor]]


@dataclass(frozen=True)
class Family:
    """A model family.

    Attributes
    ----------
    architectures
        The transformers classes whose weights it reads.
    config
        transformers config -> keyword arguments of `HookedTransformerConfig`.
    weights
        ``(cfg, tensors)`` -> pairs of our parameter's name and a tensor of its shape, read one by one. A bias that
        does not come stays zero.
    """

    architectures: tuple[str, ...]
    config: Callable[[Any], dict[str, Any]]
    weights: Callable[[HookedTransformerConfig, Mapping[str, Tensor]], Weights]


def split_heads_in(weight: Tensor, n_heads: int) -> Tensor:
    """``[n_heads * d_head, d_model]`` -> ``[n_heads, d_model, d_head]``."""
    return weight.unflatten(0, (n_heads, -1)).transpose(1, 2)


def split_heads_out(weight: Tensor, n_heads: int) -> Tensor:
    """``[d_model, n_heads * d_head]`` -> ``[n_heads, d_head, d_model]``."""
    return weight.unflatten(1, (n_heads, -1)).permute(1, 2, 0)


def split_bias(bias: Tensor, n_heads: int) -> Tensor:
    """``[n_heads * d_head]`` -> ``[n_heads, d_head]``."""
    return bias.unflatten(0, (n_heads, -1))
