"""Attention: heads with keys and values of their own, or shared by groups of heads (grouped-query)."""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.hooks import HookPoint, is_watched, may_edit
from tl_widgets.math import FactoredMatrix
from tl_widgets.math.activations import apply_softcap, softcap_enabled
from tl_widgets.network import weights
from tl_widgets.network.masking import AttentionMask
from tl_widgets.network.norm import RMSNorm
from tl_widgets.network.rotary import Rotary


class AbstractAttention(nn.Module):
    """One layer's heads; subclasses say where keys and values come from.

    Parameters
    ----------
    attn_type
        ``"global"``, or ``"local"`` for a sliding window of ``cfg.window_size``.
    layer_id
        The layer's number, for models that scale scores by it.
    rotary
        The model's tables, where positions are rotary.
    """

    W_Q: nn.Parameter
    b_Q: nn.Parameter

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        attn_type: str = "global",
        layer_id: int | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__()
        self.cfg = cfg
        self.layer_id = layer_id
        self.is_local = attn_type == "local"
        # In a tuple, so that the model's one table is not registered again under every layer.
        self._rotary = (rotary,)

        self.W_Q = weights.into_heads(cfg, cfg.n_heads)
        self.W_O = weights.out_of_heads(cfg)
        self.b_Q = weights.zeros(cfg, cfg.n_heads, cfg.d_head)
        self.b_O = weights.zeros(cfg, cfg.d_model)
        if cfg.use_attention_sinks:
            self.sinks = weights.zeros(cfg, cfg.n_heads)  # each head's score for attending to nothing
        if cfg.use_qk_norm:
            self.q_norm = RMSNorm(cfg, cfg.d_head)
            self.k_norm = RMSNorm(cfg, cfg.d_head)

        self.hook_q = HookPoint()  # [batch, pos, head, d_head]
        self.hook_k = HookPoint()  # [batch, pos, kv_head, d_head]
        self.hook_v = HookPoint()  # [batch, pos, kv_head, d_head]
        if rotary is not None:
            self.hook_rot_q = HookPoint()
            self.hook_rot_k = HookPoint()
        if cfg.positional_embedding_type == "shortformer":
            self.hook_attn_input = HookPoint()  # known to the field, and never reached
        self.hook_attn_scores = HookPoint()  # [batch, head, query_pos, key_pos]
        self.hook_pattern = HookPoint()  # [batch, head, query_pos, key_pos]
        self.hook_z = HookPoint()  # [batch, pos, head, d_head]
        self.hook_result = HookPoint()  # [batch, pos, head, d_model], optional

    def _key_value_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """`W_K`, `b_K`, `W_V`, `b_V` as they are stored."""
        raise TypeError("Build Attention or GroupedQueryAttention, not AbstractAttention.")

    @property
    def QK(self) -> FactoredMatrix:
        """Which residual streams attend to which, ``[n_heads, d_model, d_model]`` (query, key)."""
        return FactoredMatrix(self.W_Q, cast(Tensor, self.W_K).transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """What is written for what is attended to, ``[n_heads, d_model, d_model]`` (read, written)."""
        return FactoredMatrix(cast(Tensor, self.W_V), self.W_O)

    @property
    def rotary_sin(self) -> Tensor:
        """``[n_ctx, rotary_dim]``."""
        return self._tables().sin

    @property
    def rotary_cos(self) -> Tensor:
        """``[n_ctx, rotary_dim]``."""
        return self._tables().cos

    @property
    def mask(self) -> Tensor:
        """``[n_ctx, n_ctx]``, True where a query (row) may attend to a key (column); made anew when read."""
        return AttentionMask(self.cfg, self.cfg.n_ctx, self.W_Q.device).allowed(self.is_local)[0, 0]

    @property
    def IGNORE(self) -> Tensor:
        """The score of a key that a query may not attend to."""
        return torch.tensor(-math.inf, dtype=self.cfg.dtype, device=self.W_Q.device)

    def _tables(self) -> Rotary:
        (rotary,) = self._rotary
        if rotary is None:
            raise AttributeError("This model has no rotary positions.")
        return rotary

    def forward(
        self,
        query_input: Tensor,
        key_input: Tensor,
        value_input: Tensor,
        attention_mask: AttentionMask | Tensor | None = None,
    ) -> Tensor:
        """What the heads write, ``[batch, pos, d_model]``.

        Parameters
        ----------
        query_input, key_input, value_input
            ``[batch, pos, d_model]``, or ``[batch, pos, head, d_model]`` where each head reads its own.
        attention_mask
            That of the whole pass; called on its own, the mask of padding ``[batch, pos]`` or none.
        """
        mask = AttentionMask.unwrap(attention_mask, self.cfg, query_input)
        q, k, v = self.project(query_input, key_input, value_input)
        q, k, v = self.place(q, k, v, mask.positions, mask.positions)
        if mask.past is not None:
            # Turned already, so that the past is not turned again for every token; `hook_rot_k` sees all of it.
            k, v = self._continue(mask, k, v)
        if self._rotary[0] is not None:
            k = self.hook_rot_k(k)
        return self.write(self.attend(q, k, v, mask))

    # The steps of a pass, for who goes through them with other positions or heads than a whole pass has

    def project(self, query_input: Tensor, key_input: Tensor, value_input: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as `hook_q`, `hook_k` and `hook_v` see them, ``[batch, pos, head, d_head]``."""
        W_K, b_K, W_V, b_V = self._key_value_parameters()
        q = self.hook_q(_into_heads(query_input, self.W_Q, self.b_Q))
        k = self.hook_k(self._as_hooked(_into_heads(key_input, W_K, b_K)))
        v = self.hook_v(self._as_hooked(_into_heads(value_input, W_V, b_V)))
        return q, k, v

    def place(
        self, q: Tensor, k: Tensor, v: Tensor, query_positions: Tensor, key_positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values as scores and sums are made of them: normed, clipped, turned by position.

        Positions are ``[batch or 1, pos]``; queries may be at others than keys.
        """
        if self.cfg.use_qk_norm:
            q, k = _by_vector(self.q_norm, q), _by_vector(self.k_norm, k)
        if self.cfg.clip_qkv is not None:
            q, k, v = (x.clamp(-self.cfg.clip_qkv, self.cfg.clip_qkv) for x in (q, k, v))
        (rotary,) = self._rotary
        if rotary is not None:
            q = self.hook_rot_q(rotary(q, query_positions))
            k = rotary(k, key_positions)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """What each head gathers, ``[batch, query_pos, head, d_head]``, from what `place` returns."""
        q, k, v = q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)  # [batch, head, pos, d_head]
        attend = self._attend_in_steps if self._pattern_is_needed() else self._attend_fused
        return self.hook_z(_editable(self.hook_z, attend(q, k, v, mask).transpose(1, 2)))

    def gather(self, pattern: Tensor, v: Tensor) -> Tensor:
        """What each head gathers by a pattern ``[batch, head, query_pos, key_pos]``: `attend`, from its middle on."""
        z = pattern.to(v.dtype) @ self._for_every_head(v.transpose(1, 2))
        return self.hook_z(z.transpose(1, 2))

    def _continue(self, mask: AttentionMask, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of the past before those of this pass, ``[batch, key_pos, kv_head, d_head]``."""
        assert mask.past is not None
        k, v = mask.past[self.layer_id or 0].append(k, v)
        if k.shape[1] != mask.n_past + mask.n_pos:
            raise BadInput(
                f"Layer {self.layer_id} of the key/value cache holds {k.shape[1] - mask.n_pos} positions, the cache "
                f"as a whole {mask.n_past}: an earlier run left this layer out, or broke off. Start from a new one."
            )
        return k, v

    def _pattern_is_needed(self) -> bool:
        return (
            is_watched(self.hook_attn_scores)
            or is_watched(self.hook_pattern)
            or softcap_enabled(self.cfg.attn_scores_soft_cap)
            or self.cfg.use_attention_sinks
            or forward_ad._current_level >= 0  # torch's fused kernels know no forward derivatives
        )

    def _score_scale(self) -> float:
        scale = self.cfg.attn_scale if self.cfg.use_attn_scale else 1.0
        if self.cfg.scale_attn_by_inverse_layer_idx:
            scale *= (self.layer_id or 0) + 1
        return 1.0 / scale

    def _attend_fused(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """``[batch, head, pos, d_head]``, without ever forming scores or patterns."""
        if mask.is_everything(self.is_local):
            # One query a head: heads that share keys stand in as the queries of one head, and nothing is repeated.
            by_group = q.reshape(q.shape[0], k.shape[1], -1, q.shape[-1])
            z = F.scaled_dot_product_attention(by_group, k, v, scale=self._score_scale())
            return z.reshape(q.shape)
        k, v = self._for_every_head(k), self._for_every_head(v)
        plain = mask.is_plain_causal(self.is_local)
        allowed, without_keys = None, None
        if not plain:
            allowed, without_keys = mask.allowed(self.is_local), mask.without_keys(self.is_local)
            if without_keys is not None:
                allowed = allowed | without_keys  # a softmax over nothing is not defined; set to zero below
            bias = mask.score_bias(q.dtype)
            if bias is not None:
                allowed = bias.masked_fill(~allowed, -math.inf)
        z = F.scaled_dot_product_attention(q, k, v, attn_mask=allowed, is_causal=plain, scale=self._score_scale())
        return z if without_keys is None else z.masked_fill(without_keys, 0.0)

    def _attend_in_steps(self, q: Tensor, k: Tensor, v: Tensor, mask: AttentionMask) -> Tensor:
        """``[batch, head, pos, d_head]``, through scores and patterns that hooks can see and change."""
        k, v = self._for_every_head(k), self._for_every_head(v)
        scores = apply_softcap((q * self._score_scale()) @ k.transpose(-2, -1), self.cfg.attn_scores_soft_cap)
        bias = mask.score_bias(scores.dtype)
        if bias is not None:
            scores = scores + bias
        scores = scores.masked_fill_(~mask.allowed(self.is_local), -math.inf)  # in place: nobody has seen them yet
        scores = self.hook_attn_scores(scores)
        pattern = self._pattern(scores)
        if mask.tokens_mask is not None or may_edit(self.hook_attn_scores):
            # A query without keys, for padding's sake or a hook's, attends to nothing; other NaNs are to be seen.
            pattern = pattern.masked_fill((scores == -math.inf).all(-1, keepdim=True), 0.0)
        pattern = self.hook_pattern(_editable(self.hook_pattern, pattern))
        return pattern.to(v.dtype) @ v

    def _pattern(self, scores: Tensor) -> Tensor:
        """``[batch, head, query_pos, key_pos]``; rows sum to one, or to less where a sink takes its share."""
        if not self.cfg.use_attention_sinks:
            return F.softmax(scores, dim=-1)
        sinks = self.sinks[None, :, None, None].expand(*scores.shape[:-1], 1)
        return F.softmax(torch.cat([scores, sinks], dim=-1), dim=-1)[..., :-1]

    def _as_hooked(self, keys_or_values: Tensor) -> Tensor:
        """``[batch, pos, kv_head, d_head]``, once for each head when ungrouped."""
        repeats = self.cfg.n_kv_hooked // keys_or_values.shape[2]
        return keys_or_values if repeats == 1 else keys_or_values.repeat_interleave(repeats, dim=2)

    def _for_every_head(self, keys_or_values: Tensor) -> Tensor:
        """``[batch, kv_head, pos, d_head]`` -> ``[batch, head, pos, d_head]``."""
        repeats = self.cfg.n_heads // keys_or_values.shape[1]
        return keys_or_values if repeats == 1 else keys_or_values.repeat_interleave(repeats, dim=1)

    def write(self, z: Tensor) -> Tensor:
        """What heads gathered into the residual stream: ``[batch, pos, head, d_head]`` -> ``[batch, pos, d_model]``."""
        if self.cfg.use_attn_result or is_watched(self.hook_result):
            by_head = z.flatten(0, 1).transpose(0, 1) @ self.W_O  # [head, batch * pos, d_model]
            result = by_head.transpose(0, 1).unflatten(0, z.shape[:2])
            return self.hook_result(result).sum(dim=2) + self.b_O
        return F.linear(z.flatten(2), weights.as_linear_out_of_heads(self.W_O), self.b_O)


def _editable(point: HookPoint, x: Tensor) -> Tensor:
    """Return `x`, or a copy where a hook may edit in place what the operation before keeps for its gradient."""
    return x.clone() if x.requires_grad and may_edit(point) else x


def _into_heads(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """``[batch, pos, (head,) d_model]`` -> ``[batch, pos, head, d_head]``."""
    if x.ndim == 3:
        flat = F.linear(x, weights.as_linear_into_heads(weight), bias.flatten())
        return flat.unflatten(-1, bias.shape)
    heads, group = weight.shape[0], x.shape[2] // weight.shape[0]
    by_head = x.flatten(0, 1).transpose(0, 1)  # [head, batch * pos, d_model]
    if group > 1:  # each head reads an input of its own, but its group shares the weights
        by_head = by_head.reshape(heads, -1, x.shape[-1])
    by_head = (by_head @ weight + bias[:, None]).reshape(x.shape[2], -1, weight.shape[-1])
    return by_head.transpose(0, 1).unflatten(0, x.shape[:2])


def _by_vector(norm: nn.Module, x: Tensor) -> Tensor:
    """Norm each head's vector; the norm's hook points see ``[batch * pos * head, d_head]``."""
    return norm(x.reshape(-1, x.shape[-1])).view(x.shape)


class Attention(AbstractAttention):
    """Every head with keys and values of its own."""

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        attn_type: str = "global",
        layer_id: int | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__(cfg, attn_type, layer_id, rotary)
        self.W_K = weights.into_heads(cfg, cfg.n_heads)
        self.W_V = weights.into_heads(cfg, cfg.n_heads)
        self.b_K = weights.zeros(cfg, cfg.n_heads, cfg.d_head)
        self.b_V = weights.zeros(cfg, cfg.n_heads, cfg.d_head)

    def _key_value_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.W_K, self.b_K, self.W_V, self.b_V


class GroupedQueryAttention(AbstractAttention):
    """Groups of heads share keys and values: `_W_K` ... are stored, `W_K` ... are repeated for every head."""

    def __init__(
        self,
        cfg: HookedTransformerConfig,
        attn_type: str = "global",
        layer_id: int | None = None,
        rotary: Rotary | None = None,
    ) -> None:
        super().__init__(cfg, attn_type, layer_id, rotary)
        self._W_K = weights.into_heads(cfg, cfg.n_kv_heads)
        self._W_V = weights.into_heads(cfg, cfg.n_kv_heads)
        self._b_K = weights.zeros(cfg, cfg.n_kv_heads, cfg.d_head)
        self._b_V = weights.zeros(cfg, cfg.n_kv_heads, cfg.d_head)

    def _key_value_parameters(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self._W_K, self._b_K, self._W_V, self._b_V

    def _repeated(self, stored: Tensor) -> Tensor:
        return stored.repeat_interleave(self.cfg.n_heads // self.cfg.n_kv_heads, dim=0)

    @property
    def W_K(self) -> Tensor:
        """``[n_heads, d_model, d_head]``, each group's keys repeated."""
        return self._repeated(self._W_K)

    @property
    def W_V(self) -> Tensor:
        """``[n_heads, d_model, d_head]``, each group's values repeated."""
        return self._repeated(self._W_V)

    @property
    def b_K(self) -> Tensor:
        """``[n_heads, d_head]``."""
        return self._repeated(self._b_K)

    @property
    def b_V(self) -> Tensor:
        """``[n_heads, d_head]``."""
        return self._repeated(self._b_V)


def build_attention(cfg: HookedTransformerConfig, layer_id: int, rotary: Rotary | None) -> AbstractAttention:
    """Return the attention that `cfg` asks for in this layer."""
    attn_type = cfg.attn_types[layer_id] if cfg.use_local_attn and cfg.attn_types else "global"
    kind = Attention if cfg.n_key_value_heads is None else GroupedQueryAttention
    return kind(cfg, attn_type, layer_id, rotary)
