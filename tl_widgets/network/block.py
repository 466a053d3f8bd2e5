"""One block: attention and MLP, each reading the residual stream through a norm and adding to it."""

from __future__ import annotations

from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.hooks import HookPoint, is_watched
from tl_widgets.network.attention import build_attention
from tl_widgets.network.masking import AttentionMask
from tl_widgets.network.mlp import build_mlp
from tl_widgets.network.norm import build_norm, build_post_norm
from tl_widgets.network.rotary import Rotary

NO_ATTN_IN = (
    "hook_attn_in has one input for each head, but under grouped-query attention heads share keys and values: use "
    "set_use_split_qkv_input(True)."
)


class TransformerBlock(nn.Module):
    """Residual stream in, residual stream out, both ``[batch, pos, d_model]``."""

    def __init__(self, cfg: HookedTransformerConfig, block_index: int, rotary: Rotary | None = None) -> None:
        super().__init__()
        self.cfg = cfg
        self.hook_resid_pre = HookPoint()
        # Optional: the input of each head, [batch, pos, head, d_model].
        self.hook_attn_in = HookPoint()
        self.hook_q_input = HookPoint()
        self.hook_k_input = HookPoint()
        self.hook_v_input = HookPoint()
        self.ln1 = build_norm(cfg)
        self.attn = build_attention(cfg, block_index, rotary)
        if cfg.use_normalization_before_and_after:
            self.ln1_post = build_post_norm(cfg)
        self.hook_attn_out = HookPoint()
        if not cfg.attn_only:
            if not cfg.parallel_attn_mlp:
                self.hook_resid_mid = HookPoint()
            self.hook_mlp_in = HookPoint()  # optional
            self.ln2 = build_norm(cfg)
            self.mlp = build_mlp(cfg)
            if cfg.use_normalization_before_and_after:
                self.ln2_post = build_post_norm(cfg)
            self.hook_mlp_out = HookPoint()
        self.hook_resid_post = HookPoint()

    def forward(self, resid_pre: Tensor, attention_mask: AttentionMask | Tensor | None = None) -> Tensor:
        """Run the block; on its own, with the mask of padding ``[batch, pos]`` or none."""
        mask = AttentionMask.unwrap(attention_mask, self.cfg, resid_pre)
        resid_pre = self.hook_resid_pre(resid_pre)
        return self.after_attention(resid_pre, self.as_added(self._attention(resid_pre, mask)))

    def as_added(self, written: Tensor) -> Tensor:
        """What attention wrote -> what is added to the stream, `hook_attn_out`: post-normed, where there is one."""
        if self.cfg.use_normalization_before_and_after:
            written = self.ln1_post(written)
        return self.hook_attn_out(written)

    def after_attention(self, resid_pre: Tensor, attn_out: Tensor) -> Tensor:
        """The block from `hook_attn_out` on; it looks at each position alone."""
        if self.cfg.attn_only:
            return self.hook_resid_post(resid_pre + attn_out)
        if self.cfg.parallel_attn_mlp:
            return self.hook_resid_post(resid_pre + attn_out + self.hook_mlp_out(self._mlp(resid_pre)))
        return self.after_mid(self.hook_resid_mid(resid_pre + attn_out))

    def after_mid(self, resid_mid: Tensor) -> Tensor:
        """The block from `hook_resid_mid` on, where the MLP follows attention."""
        return self.hook_resid_post(resid_mid + self.hook_mlp_out(self._mlp(resid_mid)))

    def _attention(self, resid_pre: Tensor, mask: AttentionMask) -> Tensor:
        attn_in = resid_pre
        if self.cfg.use_attn_in or is_watched(self.hook_attn_in):
            if self.cfg.n_kv_hooked != self.cfg.n_heads:
                raise BadInput(NO_ATTN_IN)
            attn_in = self.hook_attn_in(_for_each_head(resid_pre, self.cfg.n_heads))
        split = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        if not (self.cfg.use_split_qkv_input or any(is_watched(point) for point in split)):
            normalized = self.ln1(attn_in)
            with_positions = _plus_positions(normalized, mask)
            return self._attend(with_positions, with_positions, normalized, mask)
        n_kv = self.cfg.n_kv_hooked
        inputs = [
            point(_for_each_head(attn_in, n_heads))
            for point, n_heads in zip(split, (self.cfg.n_heads, n_kv, n_kv), strict=True)
        ]
        query, key, value = (self.ln1(each) for each in inputs)
        return self._attend(_plus_positions(query, mask), _plus_positions(key, mask), value, mask)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, mask: AttentionMask) -> Tensor:
        # By the field's keywords: what others put in the place of `attn` looks for them.
        return self.attn(query_input=query, key_input=key, value_input=value, attention_mask=mask)

    def _mlp(self, resid: Tensor) -> Tensor:
        if self.cfg.use_hook_mlp_in or is_watched(self.hook_mlp_in):
            # A copy, so that an edit in place reaches the MLP alone and not the residual stream.
            resid = self.hook_mlp_in(resid.clone())
        written = self.mlp(self.ln2(resid))
        return self.ln2_post(written) if self.cfg.use_normalization_before_and_after else written


def _plus_positions(x: Tensor, mask: AttentionMask) -> Tensor:
    """``[batch, pos, (head,) d_model]``; under shortformer positions join what queries and keys read, only there."""
    if mask.pos_embed is None:
        return x
    return x + (mask.pos_embed if x.ndim == 3 else mask.pos_embed[:, :, None])


def _for_each_head(x: Tensor, n_heads: int) -> Tensor:
    """``[batch, pos, d_model]`` -> ``[batch, pos, head, d_model]``, memory of its own (hooks edit in place)."""
    if x.ndim == 4:
        return x.clone()
    return x.unsqueeze(2).repeat(1, 1, n_heads, 1)
