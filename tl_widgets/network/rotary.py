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

    def __init__(self, cfg: HookedTransformerConfig, is_local: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        # Tables are cheap to make and not weights: they stay out of state dicts.
        per_position = frequencies(cfg, is_local).to(cfg.device)
        angles = torch.arange(cfg.n_ctx).to(per_position)[:, None] * per_position[None, :]
        # Each frequency turns one pair of dimensions: neighbours, or dimension i with i + rotary_dim / 2.
        angles = angles.repeat_interleave(2, dim=-1) if cfg.rotary_adjacent_pairs else torch.cat([angles, angles], -1)
        length = cfg.yarn_attention_factor if _uses_yarn(cfg, is_local) else 1.0
        self.register_buffer("sin", (length * angles.sin()).to(cfg.dtype), persistent=False)
        self.register_buffer("cos", (length * angles.cos()).to(cfg.dtype), persistent=False)

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


def has_local_tables(cfg: HookedTransformerConfig) -> bool:
    """Whether local layers turn at another pace than global ones."""
    return cfg.use_local_attn and (
        cfg.rotary_base_local is not None or (cfg.use_yarn_rope and cfg.yarn_global_attn_only)
    )


def frequencies(cfg: HookedTransformerConfig, is_local: bool = False) -> Tensor:
    """Radians per position of each pair of dimensions, ``[rotary_dim / 2]``, in single precision at least."""
    rotary_dim = cfg.rotary_dim or cfg.d_head
    precision = torch.promote_types(cfg.dtype, torch.float32)
    exponents = torch.arange(0, rotary_dim, 2, dtype=precision) / rotary_dim
    if is_local and cfg.rotary_base_local is not None:
        return 1.0 / (cfg.rotary_base_local**exponents)  # a short window needs no stretching
    plain = 1.0 / (cfg.rotary_base**exponents)
    if cfg.use_NTK_by_parts_rope:
        return _ntk_by_parts(plain, cfg)
    if _uses_yarn(cfg, is_local):
        return _yarn(plain, cfg)
    return plain / cfg.rotary_scaling_factor


def _uses_yarn(cfg: HookedTransformerConfig, is_local: bool) -> bool:
    return cfg.use_yarn_rope and not (is_local and (cfg.yarn_global_attn_only or cfg.rotary_base_local is not None))


def _yarn(plain: Tensor, cfg: HookedTransformerConfig) -> Tensor:
    """Slow pairs are slowed by the factor, fast ones kept, those between blended (https://arxiv.org/abs/2309.00071)."""
    n_pairs, rotary_dim = len(plain), 2 * len(plain)

    def pair_that_turns(times: float) -> float:
        """Which pair turns that often within the context that the model was first trained on."""
        wavelength = cfg.yarn_original_max_position_embeddings / (2 * math.pi * times)
        return rotary_dim * math.log(wavelength) / (2 * math.log(cfg.rotary_base))

    first, last = pair_that_turns(cfg.yarn_beta_fast), pair_that_turns(cfg.yarn_beta_slow)
    if cfg.yarn_truncate:
        first, last = math.floor(first), math.ceil(last)
    first, last = max(first, 0), min(last, rotary_dim - 1)
    slowed = ((torch.arange(n_pairs).to(plain) - first) / max(last - first, 0.001)).clamp(0, 1)
    return (1 - slowed) * plain + slowed * plain / cfg.yarn_factor


def _ntk_by_parts(plain: Tensor, cfg: HookedTransformerConfig) -> Tensor:
    """Slow pairs are slowed further by the factor, fast ones kept, those between blended (Llama 3.1)."""
    turns = cfg.NTK_original_ctx_len * plain / (2 * math.pi)  # in the context that the model was first trained on
    low, high = cfg.NTK_by_parts_low_freq_factor, cfg.NTK_by_parts_high_freq_factor
    keep = ((turns - low) / (high - low)).clamp(0, 1)
    return keep * plain + (1 - keep) * plain / cfg.NTK_by_parts_factor
