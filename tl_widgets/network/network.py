"""`Network`: tokens in, residual stream through the blocks, logits out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.hooks import HookedRootModule, HookPoint, is_altered
from tl_widgets.math.activations import apply_softcap
from tl_widgets.math.tensors import is_transformed
from tl_widgets.network.block import NO_ATTN_IN, TransformerBlock
from tl_widgets.network.embed import Embed, PosEmbed, Unembed
from tl_widgets.network.init import init_weights_
from tl_widgets.network.masking import AttentionMask, Past
from tl_widgets.network.norm import build_norm
from tl_widgets.network.rotary import Rotary, has_local_tables
from tl_widgets.network.stacked import StackedWeights

# Activations that are only formed when asked for: by their flag in the config, or by a hook.
OPTIONAL_POINTS = {
    "hook_tokens": "use_hook_tokens",
    "hook_attn_in": "use_attn_in",
    "hook_q_input": "use_split_qkv_input",
    "hook_k_input": "use_split_qkv_input",
    "hook_v_input": "use_split_qkv_input",
    "hook_mlp_in": "use_hook_mlp_in",
    "hook_result": "use_attn_result",
}

# Known to the field under shortformer, and never called.
NEVER_REACHED = ("hook_attn_input",)

# Where the modules of a model come from that nobody has changed.
_OURS = ("tl_widgets.", "torch.nn.")
# What the field's state dicts carry beside weights; here it is worked out from the config.
NOT_WEIGHTS = ("mask", "IGNORE", "rotary_sin", "rotary_cos")


class Network(StackedWeights, HookedRootModule):
    """The transformer itself, with a `HookPoint` on every activation and no idea of text."""

    def __init__(self, cfg: HookedTransformerConfig) -> None:
        super().__init__()
        self.cfg = cfg
        if cfg.d_vocab <= 0:
            raise BadInput("d_vocab must be set where there is no tokenizer to take it from.")
        self.hook_tokens = HookPoint()  # [batch, pos], optional
        self.embed = Embed(cfg)
        self.hook_embed = HookPoint()  # [batch, pos, d_model]
        if cfg.positional_embedding_type in ("standard", "shortformer"):
            self.pos_embed = PosEmbed(cfg)
            self.hook_pos_embed = HookPoint()  # [batch, pos, d_model]
        self.rotary = Rotary(cfg) if cfg.positional_embedding_type == "rotary" else None
        self.rotary_local = Rotary(cfg, is_local=True) if self.rotary is not None and has_local_tables(cfg) else None
        self.blocks = nn.ModuleList(TransformerBlock(cfg, i, self._tables_of(i)) for i in range(cfg.n_layers))
        self.ln_final = build_norm(cfg)
        self.unembed = Unembed(cfg)
        if cfg.init_weights:
            self.init_weights()
        self.setup()

    def _tables_of(self, layer: int) -> Rotary | None:
        """Local layers may turn at another pace."""
        is_local = self.cfg.use_local_attn and (self.cfg.attn_types or [])[layer] == "local"
        return self.rotary_local if is_local and self.rotary_local is not None else self.rotary

    def init_weights(self) -> None:
        """Random weights, as ``cfg.init_mode`` says; biases zero, gains one."""
        init_weights_(self, self.cfg)

    def _is_switched_off(self, point: HookPoint) -> bool:
        last = (point.name or "").rsplit(".", 1)[-1]
        flag = OPTIONAL_POINTS.get(last)
        return last in NEVER_REACHED or (flag is not None and not getattr(self.cfg, flag))

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Copy weights in by name; the tables that the field's saved models carry beside weights are passed over."""
        passed_over = [] if hasattr(self, "pos_embed") else ["pos_embed.W_pos"]  # ALiBi models carry one, never read
        weights = {
            name: tensor
            for name, tensor in state_dict.items()
            if name not in passed_over and name.rsplit(".", 1)[-1] not in NOT_WEIGHTS
        }
        return super().load_state_dict(weights, strict, assign)

    # Optional activations

    def set_use_attn_result(self, use_attn_result: bool) -> None:
        """Whether each head's output, ``attn.hook_result`` ``[batch, pos, head, d_model]``, is always computed."""
        self.cfg.use_attn_result = use_attn_result

    def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
        """Whether queries, keys and values read inputs of their own, ``hook_q_input``, ..., one for each head."""
        self.cfg.use_split_qkv_input = use_split_qkv_input

    def set_use_attn_in(self, use_attn_in: bool) -> None:
        """Whether each head reads an input of its own, ``hook_attn_in``; refused with grouped-query attention."""
        if use_attn_in and self.cfg.n_key_value_heads is not None:
            raise BadInput(NO_ATTN_IN)
        self.cfg.use_attn_in = use_attn_in

    def set_use_hook_mlp_in(self, use_hook_mlp_in: bool) -> None:
        """Whether the MLP reads an input of its own, ``hook_mlp_in``; refused where there is no MLP."""
        if use_hook_mlp_in and self.cfg.attn_only:
            raise BadInput("hook_mlp_in is an MLP's input, and this model is attention-only.")
        self.cfg.use_hook_mlp_in = use_hook_mlp_in

    def set_ungroup_grouped_query_attention(self, ungroup_grouped_query_attention: bool) -> None:
        """Whether hooks see keys and values once for each head under grouped-query attention, not once a group."""
        self.cfg.ungroup_grouped_query_attention = ungroup_grouped_query_attention

    # Running

    def keeps_to_itself(self) -> bool:
        """Whether nothing edits activations in place: nothing in this package does, hooks and others' modules may."""
        return not any(_may_edit_in_place(module) for module in self.modules())

    def attention_mask(
        self, residual_or_tokens: Tensor, tokens_mask: Tensor | None = None, past: Past | None = None
    ) -> AttentionMask:
        """Positions and permissions for a batch, from its padding mask ``[batch, pos]`` and what came before it."""
        if past is not None:
            return self._mask_after(past, residual_or_tokens, tokens_mask)
        if tokens_mask is not None and self.cfg.attention_dir == "causal" and _pads_at_the_end(tokens_mask):
            tokens_mask = None  # no real token can see what comes after it: the fast path serves
        return AttentionMask(self.cfg, residual_or_tokens.shape[1], residual_or_tokens.device, tokens_mask)

    def _mask_after(self, past: Past, residual_or_tokens: Tensor, tokens_mask: Tensor | None) -> AttentionMask:
        if self.cfg.attention_dir != "causal":
            raise BadInput("Only a causal model can go on from a cache: here earlier tokens see later ones.")
        batch, n_pos = residual_or_tokens.shape[:2]
        before = past.previous_attention_mask
        n_past, n_ctx = before.shape[1], self.cfg.n_ctx
        if n_past + n_pos > n_ctx:
            raise BadInput(f"{n_past} tokens in the cache and {n_pos} new ones are more than this model's {n_ctx}.")
        if len(before) not in (1, batch):
            raise BadInput(f"The cache holds {len(before)} sequences, but {batch} are to be continued.")
        mask = None
        if tokens_mask is not None or not before.all():
            now = before.new_ones(batch, n_pos) if tokens_mask is None else tokens_mask.to(before)
            mask = torch.cat([before.expand(batch, -1), now], dim=1)
        return AttentionMask(self.cfg, n_pos, residual_or_tokens.device, mask, n_past, past)

    def embed_tokens(self, tokens: Tensor, mask: AttentionMask) -> Tensor:
        """``[batch, pos]`` -> the residual stream that enters the first block, ``[batch, pos, d_model]``."""
        tokens = self.hook_tokens(tokens)
        return self.add_positions(self.hook_embed(self.embed(tokens)), mask)

    def add_positions(self, embed: Tensor, mask: AttentionMask) -> Tensor:
        """Embedded tokens ``[batch, pos, d_model]`` -> the residual stream that enters the first block."""
        if self.cfg.positional_embedding_type not in ("standard", "shortformer"):
            return embed
        pos_embed = self.hook_pos_embed(self.pos_embed(embed, mask.n_past, mask))
        if self.cfg.positional_embedding_type == "standard":
            return embed + pos_embed
        mask.pos_embed = pos_embed
        return embed

    def run_blocks(self, residual: Tensor, mask: AttentionMask, start: int, stop: int) -> Tensor:
        """Residual stream ``[batch, pos, d_model]`` through the blocks `start` to `stop` - 1."""
        if self.cfg.positional_embedding_type == "shortformer" and mask.pos_embed is None:
            mask.pos_embed = self.pos_embed(residual, mask.n_past, mask)  # a run that starts at a later layer
        for block in self.blocks[start:stop]:
            if self.cfg.n_devices > 1:
                residual, mask = _on_device_of(block, residual, mask)
            residual = block(residual, attention_mask=mask)
        return residual

    def normalize(self, residual: Tensor) -> Tensor:
        """Final residual stream -> what the unembedding reads, ``[batch, pos, d_model]``."""
        if self.cfg.n_devices > 1:
            residual = residual.to(next(self.unembed.parameters()).device)
        return self.ln_final(residual)

    def to_logits(self, normalized: Tensor) -> Tensor:
        """Output of the final norm -> logits ``[batch, pos, d_vocab_out]``."""
        return apply_softcap(self.unembed(normalized), self.cfg.output_logits_soft_cap)


def _may_edit_in_place(module: nn.Module) -> bool:
    """Whether it comes from somebody else, or somebody has altered it."""
    return (
        bool(isinstance(module, HookPoint) and module.fwd_hooks)
        or is_altered(module)
        or not type(module).__module__.startswith(_OURS)
        or bool(getattr(module, "inplace", False))  # torch's own, where asked to
    )


def _on_device_of(block: nn.Module, residual: Tensor, mask: AttentionMask) -> tuple[Tensor, AttentionMask]:
    """Residual stream and mask where the block's weights are."""
    device = next(block.parameters()).device
    return (residual, mask) if device == residual.device else (residual.to(device), mask.to(device))


def _pads_at_the_end(tokens_mask: Tensor) -> bool:
    if is_transformed(tokens_mask):
        return False
    return bool((tokens_mask[:, 0] == 1).all() and (tokens_mask[:, 1:] <= tokens_mask[:, :-1]).all())
