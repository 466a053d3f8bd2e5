"""Positions in a batch of prompts of unequal length: counted from the end, they are each prompt's own."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache import ActivationCache
from tl_widgets.errors import BadInput
from tl_widgets.math import Slice, SliceInput


@dataclass(frozen=True)
class Picked:
    """What a `pos` means in a cache.

    Attributes
    ----------
    positions
        To be picked for all prompts alike, as `pos_slice`.
    own
        ``[batch]``: which of these is each prompt's own; None where each has them all.
    real
        ``[batch]`` or ``[batch, pos]``: whether a token is at `positions`, not padding; None where all are tokens.
    """

    positions: Any
    own: Tensor | None = None
    real: Tensor | None = None

    @classmethod
    def of(cls, cache: ActivationCache, pos: Slice | SliceInput) -> Picked:
        """Read `pos`, an int from the end as each prompt's token so far from its end.

        Other positions that pick padding are a warning, unless all are picked.
        """
        held = None if cache.mask is None else cache.positions.apply(cache.mask, dim=1).bool().cpu()
        picked = pos if isinstance(pos, Slice) else Slice(pos)
        if held is None or held.ndim == 1 or held.all():
            return cls(pos)
        if picked.mode == "int" and picked.slice < 0:
            distinct, own = from_the_end(held, picked.slice).unique(return_inverse=True)
            return cls(int(distinct[0])) if len(distinct) == 1 else cls(distinct.tolist(), own)
        real = picked.apply(held, dim=1)
        if picked.mode != "identity" and not real.all():
            warnings.warn(f"pos={picked.slice} picks padding too: the prompts are not of one length.", stacklevel=3)
        return cls(pos, real=real)

    def own_of(self, values: Tensor, dim: int = 1) -> Tensor:
        """``[..., batch, pos, ...]`` at `positions` -> ``[..., batch, ...]`` where each prompt has its own.

        `dim` is the batch's.
        """
        if self.own is None:
            return values
        places = (torch.arange(len(self.own), device=values.device), self.own.to(values.device))
        return values[(slice(None),) * dim + places]

    def mean(self, values: Tensor) -> Tensor:
        """``[component, *batch_and_pos]`` -> ``[component]``: the mean over real tokens."""
        values = values.flatten(1)
        return (values if self.real is None else values[:, self.real.flatten().to(values.device)]).mean(1)


def from_the_end(real: Tensor, pos: int) -> Tensor:
    """Where each prompt's token is that stands at `pos`, -1 for its last: ``[batch, pos]`` bool -> ``[batch]``."""
    ends = real.flip(1).cumsum(1).flip(1)  # how many tokens there are from here on
    if int(ends[:, 0].min()) < -pos:
        raise BadInput(f"pos={pos} is outside a prompt, or what is cached of it: {int(ends[:, 0].min())} tokens.")
    return (real & (ends == -pos)).int().argmax(1)
