"""Rotary positions (RoFormer, https://arxiv.org/abs/2104.09864)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig


class Rotary(nn.Module):
    """The tables of sines and cosines ``[n_ctx, rotary_dim]``, one pair for all layers of a model."""

    sin: Tensor
    cos: Tensor

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        # Tables are cheap to make and not weights: they stay out of state dicts.
        positions = torch.arange(cfg.n_ctx, dtype=torch.float32, device=cfg.device)
        angles = positions[:, None] * frequencies(cfg).to(positions)[None, :]
        # Each frequency turns one pair of dimensions: neighbours, or dimension i with i + rotary_dim / 2.
        angles = angles.repeat_interleave(2, dim=-1) if cfg.rotary_adjacent_pairs else torch.cat([angles, angles], -1)
        self.register_buffer("sin", angles.sin().to(cfg.dtype), persistent=False)
        self.register_buffer("cos", angles.cos().to(cfg.dtype), persistent=False)

    def forward(self, x: Tensor, positions: Tensor) -> Tensor:
        """Turn `x` ``[batch, pos, head, d_head]`` by its `positions` ``[batch or 1, pos]``."""
        rotary_dim = self.sin.shape[-1]
        # One table serves layers on several devices.
        sin, cos = (table.to(positions.device)[positions][:, :, None] for table in (self.sin, self.cos))
        turned = x[..., :rotary_dim]
        turned = turned * cos + self._quarter_turn(turned) * sin
        return turned if rotary_dim == x.shape[-1] else torch.cat([turned, x[..., rotary_dim:]], dim=-1)

    def _quarter_turn(self, x: Tensor) -> Tensor:
        """Rotate every pair of dimensions by 90 degrees."""
        if self.cfg.rotary_adjacent_pairs:
            return torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
        first, second = x.chunk(2, dim=-1)
        return torch.cat([-second, first], dim=-1)


def frequencies(cfg: HookedTransformerConfig) -> Tensor:
    """Radians per position of each pair of dimensions, ``[rotary_dim / 2]``, float32."""
    rotary_dim = cfg.rotary_dim or cfg.d_head
    exponents = torch.arange(0, rotary_dim, 2, dtype=torch.float32) / rotary_dim
    plain = 1.0 / (cfg.rotary_base**exponents)
    if cfg.use_NTK_by_parts_rope:
        return _ntk_by_parts(plain, cfg)
    return plain / cfg.rotary_scaling_factor


def _ntk_by_parts(plain: Tensor, cfg: HookedTransformerConfig) -> Tensor:
    """Slow pairs are slowed further by the factor, fast ones kept, those between blended (Llama 3.1)."""
    turns = cfg.NTK_original_ctx_len * plain / (2 * math.pi)  # in the context that the model was first trained on
    low, high = cfg.NTK_by_parts_low_freq_factor, cfg.NTK_by_parts_high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * plain + (1 - keep) * plain / cfg.NTK_by_parts_factor
