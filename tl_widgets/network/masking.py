"""Who may attend to whom, worked out once a forward pass and shared by all layers."""

from __future__ import annotations

import torch
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig


class AttentionMask:
    """Positions and permissions of one forward pass.

    Parameters
    ----------
    cfg
        For the direction and the window of local layers.
    batch, n_pos, device
        Of the residual stream.
    tokens_mask
        ``[batch, pos]``, 1 for a real token and 0 for padding; None where all are real.

    Attributes
    ----------
    positions
        ``[batch or 1, pos]``: each token's position, counted over real tokens.
    pos_embed
        ``[batch or 1, pos, d_model]``, what queries and keys read beside the residual stream under shortformer.
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        n_pos: int,
        device: torch.device,
        tokens_mask: Tensor | None = None,
    ) -> None:
        self.cfg = cfg
        self.n_pos = n_pos
        self.device = device
        self.tokens_mask = None if tokens_mask is None else tokens_mask.to(device).bool()
        if self.tokens_mask is None:
            self.positions = torch.arange(n_pos, device=device)[None]
        else:
            self.positions = (self.tokens_mask.long().cumsum(-1) - 1).clamp(min=0)
        self.pos_embed: Tensor | None = None
        self._allowed: dict[bool, Tensor] = {}
        self._bias: Tensor | None = None

    def is_plain_causal(self, is_local: bool) -> bool:
        """Whether permission is the lower triangle and nothing else."""
        window = self.cfg.window_size if is_local else None
        return (
            self.cfg.attention_dir == "causal"
            and self.cfg.positional_embedding_type != "alibi"
            and self.tokens_mask is None
            and (window is None or window >= self.n_pos)
        )

    def score_bias(self, dtype: torch.dtype) -> Tensor | None:
        """What positions add to scores, ``[1, head, query_pos, key_pos]``; None but for ALiBi."""
        if self.cfg.positional_embedding_type != "alibi":
            return None
        if self._bias is None:
            pos = torch.arange(self.n_pos, device=self.device)
            distance = (pos[:, None] - pos[None, :]).clamp(min=0)
            self._bias = -(alibi_slopes(self.cfg.n_heads, self.device)[:, None, None] * distance)[None].to(dtype)
        return self._bias

    def allowed(self, is_local: bool) -> Tensor:
        """``[batch or 1, 1, query_pos, key_pos]``, True where the query may attend to the key."""
        if is_local not in self._allowed:
            self._allowed[is_local] = self._make(is_local)
        return self._allowed[is_local]

    def _make(self, is_local: bool) -> Tensor:
        pos = torch.arange(self.n_pos, device=self.device)
        distance = pos[:, None] - pos[None, :]
        allowed = torch.ones_like(distance, dtype=torch.bool)
        if self.cfg.attention_dir == "causal":
            allowed &= distance >= 0
        if is_local and self.cfg.window_size is not None:
            allowed &= distance < self.cfg.window_size
        allowed = allowed[None, None]
        return allowed if self.tokens_mask is None else allowed & self.tokens_mask[:, None, None, :]

    def without_keys(self, is_local: bool) -> Tensor | None:
        """``[batch, 1, query_pos, 1]``, True for a query that may attend to nothing (padding before the text)."""
        return None if self.tokens_mask is None else ~self.allowed(is_local).any(-1, keepdim=True)


def alibi_slopes(n_heads: int, device: torch.device | None = None) -> Tensor:
    """How fast each head's scores fall with distance, ``[n_heads]`` (ALiBi, https://arxiv.org/abs/2108.12409)."""
    return 2.0 ** (-8.0 * torch.arange(1, n_heads + 1, device=device) / n_heads)
