"""Weights in the field's shapes over memory that a fused matrix product reads without a copy.

`W_Q` is ``[n_heads, d_model, d_head]`` to whoever looks, but its memory is that of torch's ``Linear``, ``[n_heads *
d_head, d_model]``: the parameter is a strided view. The functions ``as_linear_*`` give back the ``Linear`` view; where
a user has put a tensor of other strides in a parameter's place they copy, and stay right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput


def empty(cfg: HookedTransformerConfig, *shape: int) -> Tensor:
    """Uninitialised memory of the model's dtype, on its device."""
    return torch.empty(*shape, dtype=cfg.dtype, device=cfg.device)


def zeros(cfg: HookedTransformerConfig, *shape: int) -> nn.Parameter:
    """Return a bias."""
    return nn.Parameter(empty(cfg, *shape).zero_())


def ones(cfg: HookedTransformerConfig, *shape: int) -> nn.Parameter:
    """Return a gain."""
    return nn.Parameter(empty(cfg, *shape).fill_(1))


def matrix(cfg: HookedTransformerConfig, d_in: int, d_out: int) -> nn.Parameter:
    """``[d_in, d_out]``, in memory with the longer dimension last.

    Of a product with one or two rows (a token being generated) the processor's libraries read such memory up to 1.6
    times as fast; with more rows there is no telling the two apart.
    """
    return nn.Parameter(empty(cfg, d_in, d_out) if d_out > d_in else empty(cfg, d_out, d_in).T)


def into_heads(cfg: HookedTransformerConfig, n_heads: int) -> nn.Parameter:
    """``[n_heads, d_model, d_head]``, in memory ``[n_heads, d_head, d_model]``."""
    return nn.Parameter(empty(cfg, n_heads, cfg.d_head, cfg.d_model).transpose(1, 2))


def out_of_heads(cfg: HookedTransformerConfig) -> nn.Parameter:
    """``[n_heads, d_head, d_model]``, in memory ``[d_model, n_heads, d_head]``."""
    return nn.Parameter(empty(cfg, cfg.d_model, cfg.n_heads, cfg.d_head).permute(1, 2, 0))


def as_linear_into_heads(weight: Tensor) -> Tensor:
    """``[n_heads, d_model, d_head]`` -> ``[n_heads * d_head, d_model]``."""
    return weight.transpose(1, 2).flatten(0, 1)


def as_linear_out_of_heads(weight: Tensor) -> Tensor:
    """``[n_heads, d_head, d_model]`` -> ``[d_model, n_heads * d_head]``."""
    return weight.permute(2, 0, 1).flatten(1, 2)


@contextmanager
def temporarily_swap_parameter(parameter: nn.Parameter, new_value: Tensor) -> Iterator[nn.Parameter]:
    """A context in which a parameter has another value; its own comes back also after an error.

    Parameters
    ----------
    new_value
        Of the same shape and dtype; used as it is, not copied.

    Examples
    --------
    >>> weight = nn.Parameter(torch.ones(2))
    >>> with temporarily_swap_parameter(weight, torch.zeros(2)):
    ...     weight.tolist()
    [0.0, 0.0]
    >>> weight.tolist()
    [1.0, 1.0]
    """
    for what in ("shape", "dtype"):
        given, wanted = getattr(new_value, what), getattr(parameter, what)
        if given != wanted:
            raise BadInput(f"The new value's {what} is {given}, but the parameter's is {wanted}.")
    before = parameter.data
    parameter.data = new_value.detach().to(parameter.device)
    try:
        yield parameter
    finally:
        parameter.data = before
