"""Who may attend to whom, worked out once a forward pass and shared by all layers."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig


class LayerPast(Protocol):
    """One layer's part of a `Past`."""

    def append(self, new_keys: Tensor, new_values: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values so far, ``[batch, key_pos, kv_head, d_head]``, the new ones last."""


class Past(Protocol):
    """What the network needs of a key/value cache."""

    @property
    def previous_attention_mask(self) -> Tensor:
        """``[batch, past_pos]``, 0 for padding."""

    def __getitem__(self, layer: int) -> LayerPast: ...


class AttentionMask:
    """Positions and permissions of one forward pass.

    Parameters
    ----------
    cfg
        For the direction and the window of local layers.
    n_pos, device
        Of the residual stream, whose positions are the queries.
    tokens_mask
        ``[batch, key_pos]``, 1 for a real token and 0 for padding; None where all are real.
    n_past
        How many keys come before those of this pass, from a cache.
    past
        That cache; each layer's attention adds its keys and values to it.

    Attributes
    ----------
    positions
        ``[batch or 1, query_pos]``: each token's position, counted over real tokens.
    key_positions
        ``[batch or 1, key_pos]``: the same of what queries look at, the past included.
    pos_embed
        ``[batch or 1, pos, d_model]``, what queries and keys read beside the residual stream under shortformer.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        n_pos: int,
        device: torch.device,
        tokens_mask: Tensor | None = None,
        n_past: int = 0,
        past: Past | None = None,
    ) -> None:
        self.cfg = cfg
        self.n_pos = n_pos
        self.n_past = n_past
        self.past = past
        self.device = device
        self.tokens_mask = None if tokens_mask is None else tokens_mask.to(device).bool()
        if self.tokens_mask is None:
            self.key_positions = torch.arange(n_past + n_pos, device=device)[None]
        else:
            self.key_positions = get_offset_position_ids(0, self.tokens_mask)
        self.positions = self.key_positions[:, n_past:]
        self.pos_embed: Tensor | None = None
        self._allowed: dict[bool, Tensor] = {}
        self._bias: Tensor | None = None

    def to(self, device: torch.device) -> AttentionMask:
        """Return the same on another device."""
        return AttentionMask(self.cfg, self.n_pos, device, self.tokens_mask, self.n_past, self.past)

    def is_plain_causal(self, is_local: bool) -> bool:
        """Whether permission is the lower triangle and nothing else."""
        return self.n_past == 0 and self.cfg.attention_dir == "causal" and self._is_unrestricted(is_local)

    def is_everything(self, is_local: bool) -> bool:
        """Whether there is one query and it may see every key, as when a sequence is continued token by token."""
        return self.n_pos == 1 and self._is_unrestricted(is_local)

    def _is_unrestricted(self, is_local: bool) -> bool:
        """Whether neither padding nor a window forbids anything."""
        window = self.cfg.window_size if is_local else None
        return (
            self.cfg.positional_embedding_type != "alibi"
            and self.tokens_mask is None
            and (window is None or window >= self.n_past + self.n_pos)
        )

    def score_bias(self, dtype: torch.dtype) -> Tensor | None:
        """What positions add to scores, ``[batch or 1, head, query_pos, key_pos]``; None but for ALiBi."""
        if self.cfg.positional_embedding_type != "alibi":
            return None
        if self._bias is None:
            distance = (self.positions[:, None, :, None] - self.key_positions[:, None, None, :]).clamp(min=0)
            self._bias = -(alibi_slopes(self.cfg.n_heads, self.device)[:, None, None] * distance).to(dtype)
        return self._bias

    def allowed(self, is_local: bool) -> Tensor:
        """``[batch or 1, 1, query_pos, key_pos]``, True where the query may attend to the key."""
        if is_local not in self._allowed:
            self._allowed[is_local] = self._make(is_local)
        return self._allowed[is_local]

    def _make(self, is_local: bool) -> Tensor:
        index = torch.arange(self.n_past + self.n_pos, device=self.device)
        allowed = torch.ones(self.n_pos, len(index), dtype=torch.bool, device=self.device)
        if self.cfg.attention_dir == "causal":
            allowed &= index[self.n_past :, None] >= index[None, :]
        allowed = allowed[None]
        if is_local and self.cfg.window_size is not None:
            # Counted over real tokens: padding between a prompt and its continuation is no part of the window.
            allowed = allowed & (self.positions[:, :, None] - self.key_positions[:, None, :] < self.cfg.window_size)
        allowed = allowed[:, None]
        return allowed if self.tokens_mask is None else allowed & self.tokens_mask[:, None, None, :]

    def without_keys(self, is_local: bool) -> Tensor | None:
        """``[batch, 1, query_pos, 1]``, True for a query that may attend to nothing (padding before the text)."""
        return None if self.tokens_mask is None else ~self.allowed(is_local).any(-1, keepdim=True)


def alibi_slopes(n_heads: int, device: torch.device | None = None) -> Tensor:
    """How fast each head's scores fall with distance, ``[n_heads]`` (ALiBi, https://arxiv.org/abs/2108.12409)."""
    return 2.0 ** (-8.0 * torch.arange(1, n_heads + 1, device=device) / n_heads)


def get_offset_position_ids(past_kv_pos_offset: int, attention_mask: Tensor) -> Tensor:
    """Positions counted over real tokens ``[batch, pos]``, of those that follow the first so many.

    Parameters
    ----------
    past_kv_pos_offset
        How many positions a key/value cache holds.
    attention_mask
        ``[batch, past_kv_pos_offset + pos]``, 0 for padding; padding before the text is at position 0 too.

    Examples
    --------
    >>> get_offset_position_ids(1, torch.tensor([[0, 0, 1, 1]]))
    tensor([[0, 0, 1]])
    """
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, past_kv_pos_offset:]
