"""Patterns small enough to send all at once: pooled and in eight bits."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

# 0 ... TOP is a weight from 0 to 1; NaN has a code of its own.
TOP, NAN = 254, 255
LARGEST_SIDE = 48


def thumbnail_side(n_heads_in_all: int, n_pos: int, budget: int) -> int:
    """Side of a square thumbnail, so that all heads together take at most `budget` bytes."""
    return max(1, min(n_pos, LARGEST_SIDE, math.isqrt(budget // max(1, n_heads_in_all))))


def pool(patterns: Tensor, rows: int, cols: int) -> Tensor:
    """``[..., query, key]`` -> ``[..., rows, cols]`` by the largest weight: a mean would wash out single tokens."""
    if patterns.shape[-2:] == (rows, cols):
        return patterns
    leading = patterns.shape[:-2]
    flat = patterns.reshape(-1, 1, *patterns.shape[-2:]).float()
    return F.adaptive_max_pool2d(flat, (rows, cols)).reshape(*leading, rows, cols)


def quantise(weights: Tensor) -> Tensor:
    """Weights from 0 to 1 -> uint8 codes."""
    codes = (weights.float().clamp(0, 1) * TOP).round()
    return torch.where(weights.isnan(), torch.full_like(codes, NAN), codes).to(torch.uint8)
