"""The activation functions of MLPs, by the field's names."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# The tanh approximation, under the two names by which the field knows it.
gelu_new = partial(F.gelu, approximate="tanh")
gelu_fast = gelu_new


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


def solu(input: Tensor) -> Tensor:
    """Softmax linear unit, ``x * softmax(x)`` (https://transformer-circuits.pub/2022/solu)."""
    return input * F.softmax(input, dim=-1)


def softcap_enabled(cap: float | None) -> bool:
    """Whether a soft cap caps anything: None and what is not positive mean none."""
    return cap is not None and cap > 0


def apply_softcap(x: Tensor, cap: float | None) -> Tensor:
    """``cap * tanh(x / cap)``, which stays within ``-cap`` and ``cap``; `x` itself where there is no cap.

    Examples
    --------
    >>> apply_softcap(torch.tensor([0.1, 100.0]), 2.0)
    tensor([0.0999, 2.0000])
    """
    return cap * torch.tanh(x / cap) if cap is not None and softcap_enabled(cap) else x


def relu2(x: Tensor) -> Tensor:
    """``relu(x) ** 2`` (https://arxiv.org/abs/2109.08668)."""
    return F.relu(x).square()


# The published starting point: slopes of 0.8 on either side of zero.
_XIELU_START = {"alpha_p": math.log(math.expm1(0.8)), "alpha_n": math.log(math.expm1(0.8 - 0.5))}


class XIELU(nn.Module):
    """Expanded integral of the ELU, with two trainable slopes (https://arxiv.org/abs/2411.13010)."""

    beta: Tensor
    eps: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.alpha_p = nn.Parameter(torch.tensor(_XIELU_START["alpha_p"]))
        self.alpha_n = nn.Parameter(torch.tensor(_XIELU_START["alpha_n"]))
        self.register_buffer("beta", torch.tensor(0.5))
        self.register_buffer("eps", torch.tensor(-1e-6))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        above = F.softplus(self.alpha_p) * x.square()
        below = (self.beta + F.softplus(self.alpha_n)) * (torch.expm1(torch.minimum(x, self.eps)) - x)
        return torch.where(x > 0, above, below) + self.beta * x


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": gelu_new,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "solu": solu,
    "solu_ln": solu,  # its LayerNorm is a module of the MLP, with hook points of its own
    "relu2": relu2,
    "xielu": XIELU(),  # its slopes are weights: each MLP makes one of its own
}
