"""A model's weights as properties: stacked over layers, in the field's shapes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput, NotInThisModel, unknown
from tl_widgets.math import FactoredMatrix, composition_scores

# Where each stacked weight lives in a block.
_STACKED = {
    **dict.fromkeys(("W_K", "W_Q", "W_V", "W_O", "b_K", "b_Q", "b_V", "b_O"), "attn"),
    **dict.fromkeys(("W_in", "W_gate", "W_out", "b_in", "b_out"), "mlp"),
}

# What a later head reads through, for each way in which an earlier one can compose with it.
_READS = {"Q": lambda weights: weights.QK, "K": lambda weights: weights.QK.T, "V": lambda weights: weights.OV}


class StackedWeights(nn.Module):
    """The properties, for a module with `cfg`, `embed`, `blocks` and `unembed`.

    Each stack is made when asked for: to change a weight, change the block's own (``model.blocks[0].attn.W_Q``).
    """

    cfg: HookedTransformerConfig
    embed: Any  # packages on top put modules of their own in the place of these
    blocks: Any
    unembed: Any

    def _stack(self, name: str) -> Tensor:
        part = _STACKED[name]
        if part == "mlp" and self.cfg.num_experts:
            raise NotInThisModel(name)  # experts have weights of these names too; __getattr__ says why they are none
        return torch.stack([getattr(getattr(block, part), name) for block in self.blocks])

    def __getattr__(self, name: str) -> Any:
        # Python asks here after a property has failed; torch's own answer would not say why.
        try:
            return super().__getattr__(name)
        except AttributeError:
            reason = self._why_not(name)
            if reason is None:
                raise
            raise NotInThisModel(f"There is no {name} in {self.cfg.model_name}: {reason}") from None

    def _why_not(self, name: str) -> str | None:
        """Why a model of this kind lacks a weight that others have."""
        if name in ("W_pos", "W_E_pos"):
            return f"its positions are {self.cfg.positional_embedding_type}, without a learned embedding."
        if _STACKED.get(name) != "mlp":
            return None
        if self.cfg.attn_only:
            return "it is attention-only."
        if self.cfg.num_experts:
            return f"its MLPs are mixtures of {self.cfg.num_experts} experts; see model.blocks[layer].mlp."
        return "its MLPs are not of the kind that has one. See model.blocks[layer].mlp."

    # Embeddings

    @property
    def W_E(self) -> Tensor:
        """Token embedding, ``[d_vocab, d_model]``."""
        return self.embed.W_E

    @property
    def W_pos(self) -> Tensor:
        """Position embedding, ``[n_ctx, d_model]``, where it is learned."""
        return self.pos_embed.W_pos

    @property
    def W_E_pos(self) -> Tensor:
        """Token and position embedding, one above the other: ``[d_vocab + n_ctx, d_model]``."""
        return torch.cat([self.W_E, self.W_pos])

    @property
    def W_U(self) -> Tensor:
        """Unembedding, ``[d_model, d_vocab_out]``."""
        return self.unembed.W_U

    @property
    def b_U(self) -> Tensor:
        """Bias of the unembedding, ``[d_vocab_out]``."""
        return self.unembed.b_U

    # Attention; keys and values are repeated for every head that shares them

    @property
    def W_Q(self) -> Tensor:
        """``[n_layers, n_heads, d_model, d_head]``."""
        return self._stack("W_Q")

    @property
    def W_K(self) -> Tensor:
        """``[n_layers, n_heads, d_model, d_head]``."""
        return self._stack("W_K")

    @property
    def W_V(self) -> Tensor:
        """``[n_layers, n_heads, d_model, d_head]``."""
        return self._stack("W_V")

    @property
    def W_O(self) -> Tensor:
        """``[n_layers, n_heads, d_head, d_model]``."""
        return self._stack("W_O")

    @property
    def b_Q(self) -> Tensor:
        """``[n_layers, n_heads, d_head]``."""
        return self._stack("b_Q")

    @property
    def b_K(self) -> Tensor:
        """``[n_layers, n_heads, d_head]``."""
        return self._stack("b_K")

    @property
    def b_V(self) -> Tensor:
        """``[n_layers, n_heads, d_head]``."""
        return self._stack("b_V")

    @property
    def b_O(self) -> Tensor:
        """``[n_layers, d_model]``."""
        return self._stack("b_O")

    @property
    def QK(self) -> FactoredMatrix:
        """Which residual streams attend to which, ``[n_layers, n_heads, d_model, d_model]`` (query, key)."""
        return FactoredMatrix(self.W_Q, self.W_K.transpose(-2, -1))

    @property
    def OV(self) -> FactoredMatrix:
        """What is written for what is attended to, ``[n_layers, n_heads, d_model, d_model]`` (read, written)."""
        return FactoredMatrix(self.W_V, self.W_O)

    # MLPs

    @property
    def W_in(self) -> Tensor:
        """``[n_layers, d_model, d_mlp]``."""
        return self._stack("W_in")

    @property
    def W_gate(self) -> Tensor | None:
        """``[n_layers, d_model, d_mlp]`` of gated MLPs, else None."""
        return self._stack("W_gate") if self.cfg.gated_mlp and not self.cfg.attn_only else None

    @property
    def W_out(self) -> Tensor:
        """``[n_layers, d_mlp, d_model]``."""
        return self._stack("W_out")

    @property
    def b_in(self) -> Tensor:
        """``[n_layers, d_mlp]``."""
        return self._stack("b_in")

    @property
    def b_out(self) -> Tensor:
        """``[n_layers, d_model]``."""
        return self._stack("b_out")

    # Derived from them

    @property
    def n_params_total(self) -> int:
        """Number of parameters, embeddings and biases included (``cfg.n_params`` counts neither)."""
        return sum(parameter.numel() for parameter in self.parameters())

    def all_head_labels(self) -> list[str]:
        """``["L0H0", "L0H1", ...]``, layer by layer."""
        return [f"L{layer}H{head}" for layer in range(self.cfg.n_layers) for head in range(self.cfg.n_heads)]

    def accumulated_bias(self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True) -> Tensor:
        """What biases alone have written to the residual stream that enters a layer, ``[d_model]``.

        Parameters
        ----------
        layer
            0 to n_layers; n_layers is the end of the model.
        mlp_input
            Up to the input of this layer's MLP: its attention's bias too.
        include_mlp_biases
            Those of MLPs as well as those of attention. (A mixture of experts has none.)
        """
        n_layers = self.cfg.n_layers
        if not 0 <= layer <= n_layers:
            raise BadInput(f"layer is 0 to {n_layers} (the end of the model), not {layer}.")
        if mlp_input and layer == n_layers:
            raise BadInput(f"mlp_input=True asks for the MLP of layer {layer}, but the last layer is {n_layers - 1}.")
        blocks = list(self.blocks)[:layer]
        biases = [block.attn.b_O for block in blocks]
        if include_mlp_biases and not self.cfg.attn_only:
            biases += [block.mlp.b_out for block in blocks if hasattr(block.mlp, "b_out")]
        if mlp_input:
            biases.append(self.blocks[layer].attn.b_O)
        if self.cfg.use_normalization_before_and_after and any(bool(bias.any()) for bias in biases):
            raise BadInput(
                "A norm stands between the biases of this model and its residual stream: "
                "what they write differs from prompt to prompt."
            )
        # Layers may be on several devices: the sum is where the stream begins.
        total = torch.zeros_like(self.embed.W_E[0])
        return sum((bias.to(total.device) for bias in biases), start=total)

    def all_composition_scores(self, mode: str) -> Tensor:
        """How much each head composes with every later one; see `composition_scores`.

        Parameters
        ----------
        mode
            ``"Q"``, ``"K"`` or ``"V"``: into the later head's queries, keys or values.

        Returns
        -------
        Tensor
            ``[layer, head, layer, head]``, the earlier (writing) head first; zero unless its layer is earlier.
        """
        if mode not in _READS:
            raise unknown("mode", mode, _READS)
        writes, reads = self.OV, _READS[mode](self)
        n_layers, n_heads = self.cfg.n_layers, self.cfg.n_heads
        scores = writes.A.new_zeros(n_layers, n_heads, n_layers, n_heads)
        for layer in range(1, n_layers):
            scores[:layer, :, layer] = composition_scores(writes[:layer], reads[layer])
        return scores
