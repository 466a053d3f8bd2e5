"""What each neuron writes to the residual stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.cache.norms import NormMethods, Readout
from tl_widgets.cache.reading import Reach, as_slice, keeping_axis, room_for
from tl_widgets.errors import IndexOutside, UnknownName
from tl_widgets.math import Slice, SliceInput

CHEAPER = (
    "project_output_onto= keeps products with one or a few directions in the place of vectors, neuron_slice= picks "
    "neurons, pos_slice= positions, layer= stops earlier."
)


class NeuronMethods(NormMethods):
    """Neurons, one by one: their activation times the weights that they write with.

    Nothing here carries gradients.
    """

    def get_neuron_results(
        self,
        layer: int,
        neuron_slice: Slice | SliceInput = None,
        pos_slice: Slice | SliceInput = None,
        project_output_onto: Tensor | None = None,
    ) -> Tensor:
        """What each neuron of one layer adds to the residual stream.

        Where a norm stands behind the MLP, through that norm with its cached scale and gain: neurons sum to
        ``mlp_out`` but for the biases.

        Parameters
        ----------
        layer
            This layer; negative ones count from the end.
        neuron_slice, pos_slice
            Which neurons and positions, see `tl_widgets.math.Slice`; others are not computed.
        project_output_onto
            Directions ``[d_model]`` or ``[d_model, k]``: keep each neuron's products with them, never forming its
            vector.

        Returns
        -------
        Tensor
            ``[*batch_and_pos, neuron, d_model]``; of a projection ``[*batch_and_pos, neuron]``, or
            ``[*batch_and_pos, neuron, k]``. A neuron picked by an int has no dimension.

        Raises
        ------
        UnknownName
            If the MLP has no neurons of its own (attention-only, mixture of experts).
        BadInput
            If the result would not fit in memory; the error says what is cheaper.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> neurons = cache.get_neuron_results(0)
        >>> neurons.shape
        torch.Size([1, 3, 64, 16])
        >>> torch.allclose(neurons.sum(-2) + model.blocks[0].mlp.b_out, cache["mlp_out", 0], atol=1e-5)
        True
        >>> cache.get_neuron_results(0, pos_slice=-1, project_output_onto=model.W_U[:, 7]).shape
        torch.Size([1, 64])
        """
        layer = self._layer(layer)
        positions, neurons = as_slice(pos_slice), keeping_axis(neuron_slice)
        names = self._neuron_names(layer)
        self._require(names)
        activations = self._at(names[0], positions)
        readout = Readout.build(project_output_onto, None, self.model.cfg.d_model, activations)
        shape = (*activations.shape[:-1], len(self._picked(neurons)), readout.width)
        results = room_for(shape, activations, CHEAPER)
        self._write_neurons(results.movedim(-2, 0), layer, positions, neurons, readout)
        if as_slice(neuron_slice).mode == "int":
            results = results.squeeze(-2)
        return readout.squeezed(results)

    def stack_neuron_results(
        self,
        layer: int | None,
        pos_slice: Slice | SliceInput = None,
        neuron_slice: Slice | SliceInput = None,
        return_labels: bool = False,
        incl_remainder: bool = False,
        apply_ln: bool = False,
        project_output_onto: Tensor | None = None,
    ) -> Any:
        """What each neuron before a layer adds to the residual stream; see `get_neuron_results`.

        Parameters
        ----------
        layer
            All before this layer; None, -1 or n_layers is the end of the model.
        pos_slice, neuron_slice
            Which positions, and which neurons of every layer, see `tl_widgets.math.Slice`.
        return_labels
            Also return the components' names.
        incl_remainder
            End with the rest of the residual stream that enters `layer`.
        apply_ln
            Through the norm that reads the sum, with its cached scale; see `apply_ln_to_stack`.
        project_output_onto
            Directions ``[d_model]`` or ``[d_model, k]`` (behind the norm, with `apply_ln`).

        Returns
        -------
        Tensor | tuple[Tensor, list[str]]
            ``[component, *batch_and_pos, d_model]`` (or ``[component, *batch_and_pos]``, ``[..., k]`` of a
            projection), and the labels ``L0N0``, ``L0N1``, ..., ``remainder``. Nothing larger is allocated.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> stack, labels = cache.stack_neuron_results(
        ...     -1, pos_slice=-1, neuron_slice=[0, 9], project_output_onto=model.W_U[:, 7], return_labels=True
        ... )
        >>> stack.shape, labels
        (torch.Size([4, 1]), ['L0N0', 'L0N9', 'L1N0', 'L1N9'])
        """
        reach, positions, neurons = self._reach(layer), as_slice(pos_slice), keeping_axis(neuron_slice)
        scale = self._scale_name(reach.norm) if apply_ln else []
        names = [name for block in range(reach.layer) for name in self._neuron_names(block)]
        stream_name = self._stream_name(reach)
        self._require([*names, *([stream_name] if incl_remainder or not names else []), *scale])
        like = self._at(names[0] if names else stream_name, positions)
        norm = self._reading_norm(reach, positions) if apply_ln else None
        readout = Readout.build(project_output_onto, norm, self.model.cfg.d_model, like)
        n_picked = len(self._picked(neurons))
        shape = (reach.layer * n_picked + incl_remainder, *like.shape[:-1], readout.width)
        with torch.no_grad():
            stack = room_for(shape, like, CHEAPER)
            for block in range(reach.layer):
                self._write_neurons(stack[block * n_picked :][:n_picked], block, positions, neurons, readout)
            if incl_remainder:
                stream = readout.of_vectors(self._stream(reach, positions).to(stack.device))
                torch.sub(stream, stack[:-1].sum(0), out=stack[-1])
            readout.finish_(stack)
        stack = readout.squeezed(stack)
        labels = self._neuron_labels(reach, neurons) + ["remainder"] * incl_remainder
        return (stack, labels) if return_labels else stack

    def _neuron_names(self, layer: int) -> list[str]:
        """What `_write_neurons` reads of one layer, its activations first."""
        cfg = self.model.cfg
        if cfg.attn_only:
            raise UnknownName("This model is attention-only: it has no neurons.")
        if cfg.num_experts:
            raise UnknownName(
                f"The MLPs of this model are mixtures of {cfg.num_experts} experts, each with neurons of its own, for "
                "the tokens that came its way: a neuron has no result at every position. Take the MLP as a whole, "
                f"cache['mlp_out', {layer}], or what an expert did, "
                f"cache['blocks.{layer}.mlp.experts.0.hook_post']."
            )
        return [f"blocks.{layer}.mlp.hook_post", *self._post_norm_names(layer, "ln2")]

    def _picked(self, neurons: Slice) -> list[int]:
        """Numbers of the neurons picked in each layer."""
        d_mlp = self.model.cfg.d_mlp
        try:
            return list(map(int, np.atleast_1d(neurons.indices(d_mlp))))
        except IndexError:
            raise IndexOutside(f"neuron_slice is {neurons.slice}, but neurons go from 0 to {d_mlp - 1}.") from None

    def _neuron_labels(self, reach: Reach, neurons: Slice) -> list[str]:
        return [f"L{layer}N{neuron}" for layer in range(reach.layer) for neuron in self._picked(neurons)]

    @torch.no_grad()
    def _write_neurons(self, stack: Tensor, layer: int, positions: Slice, neurons: Slice, readout: Readout) -> None:
        """Fill ``[neuron, *batch_and_pos, width]`` with what one layer's neurons add to the residual stream."""
        post = self._post_norm(layer, "ln2", positions)
        activations = neurons.apply(self._at(f"blocks.{layer}.mlp.hook_post", positions), dim=-1).movedim(-1, 0)
        weight = readout.of_weights(neurons.apply(self.model.blocks[layer].mlp.W_out.detach()), post)
        weight = weight.to(stack).view(len(stack), *[1] * (stack.ndim - 2), -1)
        torch.mul(activations.to(stack.device)[..., None], weight, out=stack)
        readout.behind(post, stack)
