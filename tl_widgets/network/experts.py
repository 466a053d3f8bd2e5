"""Mixture of experts: each token goes through the few gated MLPs that a router picks for it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.hooks import HookPoint, is_watched
from tl_widgets.math.activations import ACTIVATIONS


class Expert(nn.Module):
    """``(act(x W_gate) * (x W_in)) W_out``, for the tokens that come its way; its maps are torch's, ``[out, in]``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.act_fn = ACTIVATIONS[cfg.act_fn or ""]
        self.W_in = _linear(cfg, cfg.d_model, cfg.d_mlp or 0)
        self.W_out = _linear(cfg, cfg.d_mlp or 0, cfg.d_model)
        self.W_gate = _linear(cfg, cfg.d_model, cfg.d_mlp or 0)
        self.hook_gate = HookPoint()  # [token, d_mlp]
        self.hook_pre = HookPoint()  # [token, d_mlp]
        self.hook_post = HookPoint()  # [token, d_mlp]

    def is_watched(self) -> bool:
        """Whether anybody sees what passes here."""
        return any(is_watched(point) for point in (self.hook_gate, self.hook_pre, self.hook_post))

    def forward(self, x: Tensor) -> Tensor:
        """``[token, d_model]`` -> ``[token, d_model]``."""
        gate = self.hook_gate(self.W_gate(x))
        pre = self.hook_pre(self.W_in(x))
        return self.W_out(self.hook_post(self.act_fn(gate) * pre))


class MoE(nn.Module):
    """The router `W_gate`, ``[expert, d_model]``, and its experts, which share one set of tokens between them."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        n_experts = cfg.num_experts or 0
        self.experts: Iterable[Expert] = nn.ModuleList(  # type: ignore[assignment]
            Expert(cfg) for _ in range(n_experts)
        )
        self.W_gate = _linear(cfg, cfg.d_model, n_experts)
        self.hook_expert_weights = HookPoint()  # [batch * pos, expert]
        self.hook_expert_indices = HookPoint()  # [batch * pos, experts_per_token]

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, pos, d_model]`` -> ``[batch, pos, d_model]``."""
        tokens = x.flatten(0, 1)
        weights = self.hook_expert_weights(F.softmax(self.W_gate(tokens), dim=-1, dtype=torch.float32))
        picked, experts = weights.topk(self.cfg.experts_per_token or 1, dim=-1)
        if self.cfg.norm_topk_prob:
            picked = picked / picked.sum(-1, keepdim=True)
        experts = self.hook_expert_indices(experts)
        picked = picked.to(x.dtype)

        written = torch.zeros_like(tokens)
        for number, expert in enumerate(self.experts):
            # First those that rank this expert first, then those that rank it second, ...
            rank, token = experts.T.eq(number).nonzero(as_tuple=True)
            if len(token) or expert.is_watched():  # who watches an expert is told of no tokens, too
                written = written.index_add(0, token, expert(tokens[token]) * picked[token, rank, None])
        return written.view_as(x)


def _linear(cfg: HookedTransformerConfig, d_in: int, d_out: int) -> nn.Linear:
    return nn.utils.skip_init(nn.Linear, d_in, d_out, bias=False, device=cfg.device or "cpu", dtype=cfg.dtype)
