"""Random weights to start training from.

Our weights multiply from the right, ``x @ W``, so a matrix is ``[fan_in, fan_out]`` and a stack of heads ``[head,
fan_in, fan_out / head]``: torch's own initialisers would take one for the other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput

T = TypeVar("T", bound=Tensor)

# A uniform distribution on [-1, 1] has a standard deviation of 1 / sqrt(3).
_BOUND = math.sqrt(3)


def calc_fan_in_and_fan_out(tensor: Tensor) -> tuple[int, int]:
    """How many inputs each output of a weight has, and how many outputs each input.

    Parameters
    ----------
    tensor
        A bias ``[out]``, a matrix ``[in, out]``, or heads ``[head, in, out]``, whose outputs are counted together.

    Examples
    --------
    >>> calc_fan_in_and_fan_out(torch.ones(12, 768, 64))
    (768, 768)
    """
    shape = tensor.shape
    if len(shape) == 1:
        return 1, shape[0]
    if len(shape) == 2:
        return shape[0], shape[1]
    if len(shape) == 3:
        return shape[1], shape[0] * shape[2]
    raise BadInput(f"Fan in and fan out are of [out], [in, out] or [head, in, out], not of {list(shape)}.")


def init_xavier_uniform_(param: T, gain: float = 1.0) -> T:
    """Fill uniformly with variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010), times `gain` squared."""
    bound = _BOUND * _xavier_std(param, gain)
    return nn.init.uniform_(param, -bound, bound)  # type: ignore[return-value]


def init_xavier_normal_(param: T, gain: float = 1.0) -> T:
    """Fill normally with variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010), times `gain` squared."""
    return nn.init.normal_(param, std=_xavier_std(param, gain))  # type: ignore[return-value]


def init_kaiming_uniform_(
    param: T, a: float = 0, nonlinearity: str = "relu", gain: float = 1.0, mode: str = "fan_in"
) -> T:
    """Fill uniformly with variance ``c^2 / fan_in`` (He et al., 2015); see `init_kaiming_normal_`."""
    bound = _BOUND * _kaiming_std(param, a, nonlinearity, gain, mode)
    return nn.init.uniform_(param, -bound, bound)  # type: ignore[return-value]


def init_kaiming_normal_(
    param: T, a: float = 0, nonlinearity: str = "relu", gain: float = 1.0, mode: str = "fan_in"
) -> T:
    """Fill normally with variance ``c^2 / fan_in`` (He et al., 2015), times `gain` squared.

    Parameters
    ----------
    a
        The slope, where `nonlinearity` is ``"leaky_relu"``.
    nonlinearity
        Gives c, as in `torch.nn.init.calculate_gain`: sqrt(2) for ``"relu"``, 1 for ``"linear"``.
    mode
        ``"fan_in"``, or ``"fan_out"`` to divide by that instead.
    """
    return nn.init.normal_(param, std=_kaiming_std(param, a, nonlinearity, gain, mode))  # type: ignore[return-value]


def _xavier_std(param: Tensor, gain: float) -> float:
    return gain * math.sqrt(2.0 / sum(calc_fan_in_and_fan_out(param)))


def _kaiming_std(param: Tensor, a: float, nonlinearity: str, gain: float, mode: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise BadInput(f"mode is 'fan_in' or 'fan_out', not {mode!r}.")
    fan = calc_fan_in_and_fan_out(param)[mode == "fan_out"]
    return gain * nn.init.calculate_gain(nonlinearity, a) / math.sqrt(fan)  # type: ignore[arg-type]


def _init_mup_(name: str, param: Tensor) -> None:
    """Maximal update parametrisation (https://arxiv.org/abs/2203.03466): what matters at each width stays the same."""
    fan_in, _ = calc_fan_in_and_fan_out(param)
    if name.startswith("unembed."):
        std = 1 / fan_in
    elif name.startswith(("embed.", "pos_embed.")):
        std = 1.0
    else:
        std = 1 / math.sqrt(fan_in)
    nn.init.normal_(param, std=std)


# By `cfg.init_mode`; the gain is `cfg.initializer_range`.
_FILLS: dict[str, Callable[[str, Tensor, float], object]] = {
    "gpt2": lambda name, param, gain: nn.init.normal_(param, std=gain),
    "xavier_uniform": lambda name, param, gain: init_xavier_uniform_(param, gain),
    "xavier_normal": lambda name, param, gain: init_xavier_normal_(param, gain),
    "kaiming_uniform": lambda name, param, gain: init_kaiming_uniform_(param, gain=gain),
    "kaiming_normal": lambda name, param, gain: init_kaiming_normal_(param, gain=gain),
    "muP": lambda name, param, gain: _init_mup_(name, param),
}


def init_weights_(network: nn.Module, cfg: HookedTransformerConfig) -> None:
    """Fill the weights (``W_*``) of `network` as ``cfg.init_mode`` says; biases stay zero and gains one.

    ``cfg.seed`` makes it repeatable.
    """
    if cfg.seed is not None:
        torch.manual_seed(cfg.seed)
    fill = _FILLS[cfg.init_mode]
    for name, param in network.named_parameters():
        *_, owner, own = name.split(".")
        if own.lstrip("_").startswith("W_"):
            fill(name, param, cfg.initializer_range)
        elif owner.startswith("W_") and own == "weight":
            fill(name, param.data.T, cfg.initializer_range)  # torch's Linear is [out, in]
