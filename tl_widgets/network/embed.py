"""Tokens and positions into the residual stream, and the residual stream out into logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.hooks import HookPoint
from tl_widgets.network import weights
from tl_widgets.network.masking import AttentionMask
from tl_widgets.network.norm import LayerNorm


class Embed(nn.Module):
    """Token embedding, `W_E` ``[d_vocab, d_model]``, and a LayerNorm behind it where ``cfg.post_embedding_ln``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_E = nn.Parameter(weights.empty(cfg, cfg.d_vocab, cfg.d_model))
        if cfg.post_embedding_ln:
            self.ln = LayerNorm(cfg)

    def forward(self, tokens: Tensor) -> Tensor:
        """``[batch, pos]`` -> ``[batch, pos, d_model]``."""
        embedded = F.embedding(tokens, self.W_E)
        return self.ln(embedded) if self.cfg.post_embedding_ln else embedded


class PosEmbed(nn.Module):
    """Learned position embedding, `W_pos` ``[n_ctx, d_model]``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_pos = nn.Parameter(weights.empty(cfg, cfg.n_ctx, cfg.d_model))

    def forward(
        self, tokens: Tensor, past_kv_pos_offset: int = 0, attention_mask: AttentionMask | Tensor | None = None
    ) -> Tensor:
        """Tokens ``[batch, pos]`` (or what else has these dimensions first) -> ``[batch, pos, d_model]``.

        Parameters
        ----------
        past_kv_pos_offset
            How many positions came before.
        attention_mask
            That of the whole pass; called on its own, the mask of padding ``[batch, past + pos]`` or none.
        """
        mask = AttentionMask.unwrap(attention_mask, self.cfg, tokens, past_kv_pos_offset)
        return F.embedding(mask.positions.expand(tokens.shape[0], -1), self.W_pos)


class Unembed(nn.Module):
    """Logits, `W_U` ``[d_model, d_vocab_out]`` and `b_U` ``[d_vocab_out]``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.W_U = weights.matrix(cfg, cfg.d_model, cfg.d_vocab_out)
        self.b_U = weights.zeros(cfg, cfg.d_vocab_out)
        self.hook_in = HookPoint()
        self.hook_out = HookPoint()

    def forward(self, residual: Tensor) -> Tensor:
        """``[batch, pos, d_model]`` -> ``[batch, pos, d_vocab_out]``."""
        return self.hook_out(F.linear(self.hook_in(residual), self.W_U.T, self.b_U))
