"""The residual stream in its smallest parts: heads, neurons, embeddings and biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.heads import HeadMethods
from tl_widgets.cache.neurons import CHEAPER, NeuronMethods
from tl_widgets.cache.norms import FrozenNorm, Readout
from tl_widgets.cache.reading import Reach, as_slice, mlp_out, room_for
from tl_widgets.math import Slice, SliceInput

_CHEAPER = f"expand_neurons=False keeps each MLP whole, {CHEAPER}".replace("neuron_slice= picks neurons, ", "")


class DecompositionMethods(HeadMethods, NeuronMethods):
    """Everything at once. Nothing here carries gradients."""

    def get_full_resid_decomposition(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        expand_neurons: bool = True,
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        return_labels: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """The residual stream that enters a layer as the sum of heads, neurons, embeddings and biases.

        Parameters
        ----------
        layer
            All before this layer; None, -1 or n_layers is the end of the model.
        mlp_input
            Also this layer's heads.
        expand_neurons
            Neurons one by one; else, and where experts have them, each MLP as a whole.
        apply_ln
            Through the norm that reads the sum, with its cached scale; see `apply_ln_to_stack`.
        pos_slice
            Which positions, see `tl_widgets.math.Slice`; others are not computed.
        return_labels
            Also return the components' names.
        project_output_onto
            Directions ``[d_model]`` or ``[d_model, k]`` (behind the norm, with `apply_ln`): keep each component's
            products with them, never forming the vectors of heads and neurons.

        Returns
        -------
        Tensor | tuple[Tensor, list[str]]
            ``[component, *batch_and_pos, d_model]`` (or ``[component, *batch_and_pos]``, ``[..., k]`` of a
            projection), and the labels ``L0H0``, ..., ``L0N0``, ... (or ``0_mlp_out``, ...), ``embed``,
            ``pos_embed``, ``bias``. Nothing larger is allocated.

        Raises
        ------
        BadInput
            If the result would not fit in memory; the error says what is cheaper.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> stack, labels = cache.get_full_resid_decomposition(layer=1, expand_neurons=False, return_labels=True)
        >>> labels
        ['L0H0', 'L0H1', 'L0H2', 'L0H3', '0_mlp_out', 'embed', 'pos_embed', 'bias']
        >>> torch.allclose(stack.sum(0), cache["resid_pre", 1], atol=1e-5)
        True
        """
        reach, positions, cfg = self._reach(layer, mlp_input), as_slice(pos_slice), self.model.cfg
        by_neuron = expand_neurons and not cfg.attn_only and not cfg.num_experts
        of_mlps = 0 if cfg.attn_only else cfg.d_mlp if by_neuron else 1  # components that each MLP is
        embeddings = self._embedding_names()
        self._require(self._all_names(reach, by_neuron, apply_ln))

        embed = self._at("hook_embed", positions)
        norm = self._reading_norm(reach, positions) if apply_ln else None
        readout = Readout.build(project_output_onto, norm, cfg.d_model, embed)
        n_heads, n_mlp = reach.n_attentions * cfg.n_heads, reach.layer * of_mlps
        shape = (n_heads + n_mlp + len(embeddings) + 1, *embed.shape[:-1], readout.width)
        with torch.no_grad():
            stack = room_for(shape, embed, _CHEAPER)
            heads, mlps, rest = stack.split([n_heads, n_mlp, len(embeddings) + 1])
            bias = rest[-1].zero_()
            for slot, name in zip(rest, embeddings, strict=False):  # the last slot is the biases'
                slot.copy_(readout.of_vectors(self._at(name, positions)))
            for block in range(reach.n_attentions):
                self._write_heads(heads[block * cfg.n_heads :][: cfg.n_heads], block, positions, readout)
                self._add_bias(bias, self.model.blocks[block].attn.b_O, block, "ln1", positions, readout)
                if block == reach.layer or cfg.attn_only:
                    continue
                slots = mlps[block * of_mlps :][:of_mlps]
                if by_neuron:
                    self._write_neurons(slots, block, positions, Slice(), readout)
                    self._add_bias(bias, self.model.blocks[block].mlp.b_out, block, "ln2", positions, readout)
                else:
                    slots[0].copy_(readout.of_vectors(self._at(mlp_out(block), positions)))
            readout.finish_(stack)
        labels = self._all_labels(reach, by_neuron)
        return (readout.squeezed(stack), labels) if return_labels else readout.squeezed(stack)

    def _all_names(self, reach: Reach, by_neuron: bool, apply_ln: bool) -> list[str]:
        """What the decomposition reads."""
        names = [*self._embedding_names(), *self._head_names(reach.n_attentions)]
        for block in range(0 if self.model.cfg.attn_only else reach.layer):
            names += self._neuron_names(block) if by_neuron else [mlp_out(block)]
        return [*names, *(self._scale_name(reach.norm) if apply_ln else [])]

    def _all_labels(self, reach: Reach, by_neuron: bool) -> list[str]:
        if by_neuron:
            mlps = self._neuron_labels(reach, Slice())
        else:
            mlps = [] if self.model.cfg.attn_only else [f"{block}_mlp_out" for block in range(reach.layer)]
        embeddings = [name.removeprefix("hook_") for name in self._embedding_names()]
        return [*self._head_labels(reach), *mlps, *embeddings, "bias"]

    def _add_bias(
        self, total: Tensor, bias: Tensor, layer: int, sublayer: str, positions: Slice, readout: Readout
    ) -> None:
        """Add what a sublayer's bias ``[d_model]`` writes at each position to `total` ``[*batch_and_pos, width]``."""
        post: FrozenNorm | None = self._post_norm(layer, sublayer, positions)
        written = readout.of_weights(bias.detach().to(total), post)
        if post is None:
            total += written
            return
        total += readout.behind(post, written.expand_as(total).clone())
        if post.bias is not None:
            total += readout.of_vectors(post.bias.to(total))
