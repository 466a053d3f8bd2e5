"""MLPs: plain, with a norm inside (``solu_ln``), and gated (SwiGLU and its relatives)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.hooks import HookPoint
from tl_widgets.math.activations import ACTIVATIONS, XIELU
from tl_widgets.network import weights
from tl_widgets.network.experts import MoE
from tl_widgets.network.norm import LayerNorm, LayerNormPre


class MLP(nn.Module):
    """``act(x W_in + b_in) W_out + b_out``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        d_mlp, act_fn = cfg.d_mlp or 0, cfg.act_fn or ""  # the config has seen to both
        self.act_fn = XIELU().to(cfg.device, cfg.dtype) if act_fn == "xielu" else ACTIVATIONS[act_fn]
        self.W_in = weights.matrix(cfg, cfg.d_model, d_mlp)
        self.b_in = weights.zeros(cfg, d_mlp)
        self.W_out = weights.matrix(cfg, d_mlp, cfg.d_model)
        self.b_out = weights.zeros(cfg, cfg.d_model)
        self.hook_pre = HookPoint()  # [batch, pos, d_mlp]
        self.hook_post = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, pos, d_model]`` -> ``[batch, pos, d_model]``."""
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        post = self.hook_post(self.act_fn(pre))
        return F.linear(post, self.W_out.T, self.b_out)


class NormedMLP(MLP):
    """``LayerNorm(act(x W_in + b_in)) W_out + b_out`` (``solu_ln``)."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.hook_mid = HookPoint()  # [batch, pos, d_mlp]
        self.ln = LayerNorm(cfg, cfg.d_mlp) if cfg.normalization_type == "LN" else LayerNormPre(cfg)

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, pos, d_model]`` -> ``[batch, pos, d_model]``."""
        pre = self.hook_pre(F.linear(x, self.W_in.T, self.b_in))
        mid = self.hook_mid(self.act_fn(pre))
        post = self.hook_post(self.ln(mid))
        return F.linear(post, self.W_out.T, self.b_out)


class GatedMLP(MLP):
    """``(act(x W_gate) * (x W_in) + b_in) W_out + b_out``."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__(cfg)
        self.W_gate = weights.matrix(cfg, cfg.d_model, cfg.d_mlp or 0)
        self.hook_pre_linear = HookPoint()  # [batch, pos, d_mlp]

    def forward(self, x: Tensor) -> Tensor:
        """``[batch, pos, d_model]`` -> ``[batch, pos, d_model]``."""
        pre = self.hook_pre(F.linear(x, self.W_gate.T))
        pre_linear = self.hook_pre_linear(F.linear(x, self.W_in.T))
        post = self.hook_post(self.act_fn(pre) * pre_linear + self.b_in)
        return F.linear(post, self.W_out.T, self.b_out)


def build_mlp(cfg: HookedTransformerConfig) -> nn.Module:
    """Return the MLP that `cfg` asks for."""
    if cfg.num_experts:
        return MoE(cfg)
    if cfg.is_layer_norm_activation():
        return NormedMLP(cfg)
    return GatedMLP(cfg) if cfg.gated_mlp else MLP(cfg)
