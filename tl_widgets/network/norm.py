"""Norms: LayerNorm and RMSNorm, each with its folded ("Pre") form that has no weights."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.hooks import HookPoint, is_watched
from tl_widgets.network import weights


class _Norm(nn.Module):
    """What the four have in common: two hook points, the cached scale ``[batch, pos, 1]`` among them."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        self.eps = cfg.eps
        self.hook_scale = HookPoint()
        self.hook_normalized = HookPoint()

    def forward(self, x: Tensor) -> Tensor:
        if is_watched(self.hook_scale) or is_watched(self.hook_normalized):
            return self._in_steps(x)
        return self._fused(x)

    def _divided_by_scale(self, x: Tensor) -> Tensor:
        scale = (x.pow(2).mean(-1, keepdim=True) + self.eps).sqrt()
        return x / self.hook_scale(scale)

    def _fused(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _fused.")

    def _in_steps(self, x: Tensor) -> Tensor:
        raise TypeError(f"{type(self).__name__} must define _in_steps.")


def _in_float32(x: Tensor) -> Tensor:
    """At least single precision: half-precision activations overflow when squared."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


class LayerNormPre(_Norm):
    """Centre and divide by the standard deviation; gain and bias are folded into the weights that read it."""

    def _fused(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], eps=self.eps)

    def _in_steps(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, _in_float32(x)
        x = x - x.mean(-1, keepdim=True)
        return self.hook_normalized(self._divided_by_scale(x).to(dtype))


class LayerNorm(_Norm):
    """Centre, divide by the standard deviation; then gain `w` and bias `b`, ``[d_model]``, behind `hook_normalized`."""

    def __init__(self, cfg: HookedTransformerConfig, width: int | None = None) -> None:
        super().__init__(cfg)
        self.w = weights.ones(cfg, width or cfg.d_model)
        self.b = weights.zeros(cfg, width or cfg.d_model)

    def _fused(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.w, self.b, self.eps)

    def _in_steps(self, x: Tensor) -> Tensor:
        dtype, x = x.dtype, _in_float32(x)
        x = x - x.mean(-1, keepdim=True)
        return self.hook_normalized(self._divided_by_scale(x).to(dtype)) * self.w + self.b


class RMSNormPre(_Norm):
    """Divide by the root mean square; the gain is folded into the weights that read it."""

    def _fused(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], eps=self.eps)

    def _in_steps(self, x: Tensor) -> Tensor:
        return self.hook_normalized(self._divided_by_scale(_in_float32(x)).to(x.dtype))


class RMSNorm(_Norm):
    """Divide by the root mean square; then the gain `w`, ``[d_model]``, behind `hook_normalized`."""

    def __init__(self, cfg: HookedTransformerConfig, width: int | None = None) -> None:
        super().__init__(cfg)
        self.w = weights.ones(cfg, width or cfg.d_model)

    def _fused(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, x.shape[-1:], self.w, self.eps)

    def _in_steps(self, x: Tensor) -> Tensor:
        return self.hook_normalized(self._divided_by_scale(_in_float32(x)).to(x.dtype)) * self.w


NORMS: dict[str, type[_Norm]] = {"LN": LayerNorm, "LNPre": LayerNormPre, "RMS": RMSNorm, "RMSPre": RMSNormPre}


def build_norm(cfg: HookedTransformerConfig) -> nn.Module:
    """Return the norm that `cfg` names; None is the identity."""
    return nn.Identity() if cfg.normalization_type is None else NORMS[cfg.normalization_type](cfg)


def build_post_norm(cfg: HookedTransformerConfig) -> nn.Module:
    """Return the norm behind a sublayer: no linear map follows it, so that it keeps its gain under folding."""
    return nn.Identity() if cfg.normalization_type is None else NORMS[cfg.normalization_type.removesuffix("Pre")](cfg)
