"""What each attention head writes to the residual stream."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.norms import NormMethods, Readout
from tl_widgets.cache.reading import Reach, as_slice, room_for
from tl_widgets.math import Slice, SliceInput

_CHEAPER = "pos_slice= picks positions, layer= stops earlier."


class HeadMethods(NormMethods):
    """Heads, one by one: from `z` and the weights, or from `result` where that was cached.

    Nothing here carries gradients.
    """

    def compute_head_results(self) -> None:
        """Store what each head writes, ``cache["result", layer]``: ``[*batch_and_pos, head, d_model]``.

        Layers that have it (of a run with ``cfg.use_attn_result``) keep it. Where a norm stands behind attention,
        this is what is before it, as at the hook point.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> cache.compute_head_results()
        >>> cache["result", 0].shape
        torch.Size([1, 3, 4, 16])
        >>> torch.allclose(cache["result", 0].sum(2) + model.blocks[0].attn.b_O, cache["attn_out", 0], atol=1e-5)
        True
        """
        cfg = self.model.cfg
        n_layers, n_heads, d_model = cfg.n_layers, cfg.n_heads, cfg.d_model
        self._require(self._head_names(n_layers))
        for layer in range(n_layers):
            name = f"blocks.{layer}.attn.hook_result"
            if name in self:
                continue
            z = self[f"blocks.{layer}.attn.hook_z"]
            results = room_for((n_heads, *z.shape[:-2], d_model), z, "stack_head_results(pos_slice=...) needs less.")
            write_heads(results, z, self.model.blocks[layer].attn.W_O.detach())
            self.cache_dict[name] = results.movedim(0, -2)

    def stack_head_results(
        self,
        layer: int | None = -1,
        return_labels: bool = False,
        incl_remainder: bool = False,
        pos_slice: Slice | SliceInput = None,
        apply_ln: bool = False,
    ) -> Any:
        """What each head before a layer adds to the residual stream.

        Where a norm stands behind attention, through that norm with its cached scale and gain: heads sum to
        ``attn_out`` but for the biases.

        Parameters
        ----------
        layer
            All before this layer; None, -1 or n_layers is the end of the model.
        return_labels
            Also return the components' names.
        incl_remainder
            End with the rest of the residual stream that enters `layer`: embeddings, MLPs and biases.
        pos_slice
            Which positions, see `tl_widgets.math.Slice`; others are not computed.
        apply_ln
            Through the norm that reads the sum, with its cached scale; see `apply_ln_to_stack`.

        Returns
        -------
        Tensor | tuple[Tensor, list[str]]
            ``[component, *batch_and_pos, d_model]``, heads layer by layer, and the labels ``L0H0``, ``L0H1``, ...,
            ``remainder``. Nothing larger is allocated.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> stack, labels = cache.stack_head_results(layer=1, incl_remainder=True, return_labels=True)
        >>> labels
        ['L0H0', 'L0H1', 'L0H2', 'L0H3', 'remainder']
        >>> torch.allclose(stack.sum(0), cache["resid_pre", 1], atol=1e-5)
        True
        """
        reach, positions = self._reach(layer), as_slice(pos_slice)
        scale = self._scale_name(reach.norm) if apply_ln else []
        names, stream_name = self._head_names(reach.layer), self._stream_name(reach)
        self._require([*names, *([stream_name] if incl_remainder or not names else []), *scale])
        # What the stack's dimensions, dtype and device are taken from.
        like = self._at(names[0], positions, trailing=2)[..., 0, :] if names else self._at(stream_name, positions)
        norm = self._reading_norm(reach, positions) if apply_ln else None
        readout = Readout.build(None, norm, self.model.cfg.d_model, like)
        n_heads = self.model.cfg.n_heads
        shape = (reach.layer * n_heads + incl_remainder, *like.shape[:-1], readout.width)
        with torch.no_grad():
            stack = room_for(shape, like, _CHEAPER)
            for block in range(reach.layer):
                self._write_heads(stack[block * n_heads :][:n_heads], block, positions, readout)
            if incl_remainder:
                torch.sub(self._stream(reach, positions).to(stack.device), stack[:-1].sum(0), out=stack[-1])
            readout.finish_(stack)
        labels = self._head_labels(reach) + ["remainder"] * incl_remainder
        return (stack, labels) if return_labels else stack

    @torch.no_grad()
    def stack_head_norms(self, layer: int) -> Tensor:
        """How much each head of one layer adds to the residual stream: the length of its vector.

        Parameters
        ----------
        layer
            This layer; negative ones count from the end.

        Returns
        -------
        Tensor
            ``[head, *batch_and_pos]``.

        Examples
        --------
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> cache.stack_head_norms(-1).shape
        torch.Size([4, 1, 3])
        """
        layer, cfg = self._layer(layer), self.model.cfg
        names = self._head_names_of(layer)
        self._require(names)
        like = self[names[0]][..., 0, :]
        heads = room_for(
            (cfg.n_heads, *like.shape[:-1], cfg.d_model), like, "run_with_cache(pos_slice=...) keeps less."
        )
        self._write_heads(heads, layer, Slice(), Readout(None, None, cfg.d_model))
        return heads.norm(dim=-1)

    def _head_names(self, n_attentions: int) -> list[str]:
        """What `_write_heads` reads of the first layers."""
        return [name for layer in range(n_attentions) for name in self._head_names_of(layer)]

    def _head_names_of(self, layer: int) -> list[str]:
        """What `_write_heads` reads of one layer, first what has heads."""
        result, z = f"blocks.{layer}.attn.hook_result", f"blocks.{layer}.attn.hook_z"
        return [result if result in self else z, *self._post_norm_names(layer, "ln1")]

    def _head_labels(self, reach: Reach) -> list[str]:
        return [f"L{layer}H{head}" for layer in range(reach.n_attentions) for head in range(self.model.cfg.n_heads)]

    def _write_heads(self, stack: Tensor, layer: int, positions: Slice, readout: Readout) -> None:
        """Fill ``[head, *batch_and_pos, width]`` with what one layer's heads add to the residual stream."""
        result, post = f"blocks.{layer}.attn.hook_result", self._post_norm(layer, "ln1", positions)
        if result in self:
            by_head = self._at(result, positions, trailing=2).movedim(-2, 0)
            stack.copy_(readout.of_weights(by_head, post))
        else:
            z = self._at(f"blocks.{layer}.attn.hook_z", positions, trailing=2)
            write_heads(stack, z, readout.of_weights(self.model.blocks[layer].attn.W_O.detach(), post))
        readout.behind(post, stack)


@torch.no_grad()
def write_heads(stack: Tensor, z: Tensor, weight: Tensor) -> None:
    """`z` ``[*batch_and_pos, head, d_head]`` through `weight` ``[head, d_head, width]``, into `stack`.

    `stack` is ``[head, *batch_and_pos, width]``: the products are written there and nowhere else.
    """
    by_head = z.reshape(-1, *z.shape[-2:]).transpose(0, 1)  # [head, batch * pos, d_head]
    torch.bmm(by_head.to(stack.device), weight.to(stack.device), out=stack.view(len(stack), -1, stack.shape[-1]))
