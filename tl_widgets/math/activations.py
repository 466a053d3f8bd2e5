"""The activation functions of MLPs, by the field's names."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

# The tanh approximation, under the two names by which the field knows it.
gelu_new = partial(F.gelu, approximate="tanh")
gelu_fast = gelu_new


def quick_gelu(x: Tensor) -> Tensor:
    """``x * sigmoid(1.702 x)``."""
    return x * torch.sigmoid(1.702 * x)


def solu(input: Tensor) -> Tensor:
    """Softmax linear unit, ``x * softmax(x)`` (https://transformer-circuits.pub/2022/solu)."""
    return input * F.softmax(input, dim=-1)


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_new": gelu_new,
    "gelu_fast": gelu_fast,
    "gelu_pytorch_tanh": gelu_new,
    "quick_gelu": quick_gelu,
    "silu": F.silu,
    "solu": solu,
}
