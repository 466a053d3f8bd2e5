"""The residual stream layer by layer, and the components that it is the sum of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from tl_widgets.cache.names import get_act_name
from tl_widgets.cache.norms import NormMethods
from tl_widgets.cache.reading import Reach, as_slice, attn_out, mlp_out
from tl_widgets.errors import BadInput, unknown
from tl_widgets.math import Slice, SliceInput

# Which sublayers each mode of a decomposition lists.
_MODES = {"all": ("attn", "mlp"), "full": ("attn", "mlp"), "attn": ("attn",), "mlp": ("mlp",)}


class ResidualMethods(NormMethods):
    """Stacks of what was cached of the residual stream."""

    def accumulated_resid(
        self,
        layer: int | None = None,
        incl_mid: bool = False,
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        mlp_input: bool = False,
        return_labels: bool = False,
    ) -> Any:
        """The residual stream as it enters each layer: what the logit lens reads.

        Parameters
        ----------
        layer
            The last to include; None, -1 or n_layers is the end of the model, and adds the final residual stream.
        incl_mid
            Also between attention and MLP, where blocks have such a place (parallel and attention-only ones do not).
        apply_ln
            Through a norm: at the end of the model through the final norm, each by its own statistics; before that
            through the norm of `layer` with its cached scale.
        pos_slice
            Which positions, see `tl_widgets.math.Slice`.
        mlp_input
            Add the input of this layer's MLP.
        return_labels
            Also return the components' names.

        Returns
        -------
        Tensor | tuple[Tensor, list[str]]
            ``[component, *batch_and_pos, d_model]``, and the labels ``0_pre``, ``0_mid``, ..., ``final_post``.

        Notes
        -----
        The logit lens: nostalgebraist (2020), "interpreting GPT: the logit lens".

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> logits, cache = model.run_with_cache([3, 1, 4])
        >>> stack, labels = cache.accumulated_resid(apply_ln=True, return_labels=True)
        >>> stack.shape, labels
        (torch.Size([3, 1, 3, 16]), ['0_pre', '1_pre', 'final_post'])
        >>> torch.allclose(model.unembed(stack[-1]), logits, atol=1e-5)
        True
        """
        reach = self._reach(layer, mlp_input, whole_model_has_no_mlp=False)
        has_mid = self._has_resid_mid()
        parts = []
        for block in range(reach.layer + 1):
            if block == reach.n_layers:
                parts.append(("final_post", get_act_name("resid_post", block - 1)))
                continue
            parts.append((f"{block}_pre", get_act_name("resid_pre", block)))
            if has_mid and (reach.mlp_input if block == reach.layer else incl_mid):
                parts.append((f"{block}_mid", get_act_name("resid_mid", block)))
        scale = self._scale_name(reach.norm) if apply_ln and not reach.is_end else []
        stack = self._stacked([name for _, name in parts], pos_slice, scale)
        if apply_ln and self.model.cfg.normalization_type is not None:
            if reach.is_end:
                stack = self._normed_alone(stack)
            else:
                stack = self._through_norm_(stack, reach, pos_slice)
        return (stack, [label for label, _ in parts]) if return_labels else stack

    def decompose_resid(
        self,
        layer: int | None = None,
        mlp_input: bool = False,
        mode: str = "all",
        apply_ln: bool = False,
        pos_slice: Slice | SliceInput = None,
        incl_embeds: bool = True,
        return_labels: bool = False,
    ) -> Any:
        """The components whose sum is the residual stream that enters a layer: embeddings, attentions and MLPs.

        Parameters
        ----------
        layer
            All before this layer; None, -1 or n_layers is the end of the model.
        mlp_input
            Also this layer's attention.
        mode
            ``"all"`` (or ``"full"``), or only ``"attn"`` or ``"mlp"``.
        apply_ln
            Through the norm that reads the sum, with its cached scale; see `apply_ln_to_stack`.
        pos_slice
            Which positions, see `tl_widgets.math.Slice`.
        incl_embeds
            Start with the embeddings.
        return_labels
            Also return the components' names.

        Returns
        -------
        Tensor | tuple[Tensor, list[str]]
            ``[component, *batch_and_pos, d_model]``, and the labels ``embed``, ``pos_embed``, ``0_attn_out``,
            ``0_mlp_out``, ...

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> stack, labels = cache.decompose_resid(layer=1, return_labels=True)
        >>> labels
        ['embed', 'pos_embed', '0_attn_out', '0_mlp_out']
        >>> torch.allclose(stack.sum(0), cache["resid_pre", 1], atol=1e-5)
        True
        """
        reach = self._reach(layer, mlp_input)
        if mode not in _MODES:
            raise unknown("mode", mode, _MODES)
        names = self._embedding_names() if incl_embeds else []
        for block in range(reach.n_attentions):
            if "attn" in _MODES[mode]:
                names.append(attn_out(block))
            if "mlp" in _MODES[mode] and block < reach.layer and not self.model.cfg.attn_only:
                names.append(mlp_out(block))
        if not names:
            raise BadInput(f"There is no component: mode={mode!r} before layer {reach.layer} with incl_embeds=False.")
        stack = self._stacked(names, pos_slice, self._scale_name(reach.norm) if apply_ln else [])
        if apply_ln:
            stack = self._through_norm_(stack, reach, pos_slice)
        return (stack, [_label(name) for name in names]) if return_labels else stack

    def stack_activation(
        self, activation_name: str, layer: int | None = -1, sublayer_type: str | None = None
    ) -> Tensor:
        """One activation of every layer before `layer`, stacked: ``[layer, ...]``.

        Parameters
        ----------
        activation_name
            In the field's shorthand: ``"q"``, ``"resid_post"``, ``"scale"``, ...
        layer
            All before this one; None, -1 or n_layers is the end of the model.
        sublayer_type
            The part of the block, where the name alone does not say: ``"ln1"``, ``"attn"``, ``"mlp"``.

        Examples
        --------
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> cache.stack_activation("pattern").shape, cache.stack_activation("scale", sublayer_type="ln1").shape
        (torch.Size([2, 1, 4, 3, 3]), torch.Size([2, 1, 3, 1]))
        """
        reach = self._reach(layer)
        if not reach.layer:
            raise BadInput(f"There is no layer before layer 0 to stack {activation_name!r} of.")
        return self._stacked([get_act_name(activation_name, block, sublayer_type) for block in range(reach.layer)])

    def _stacked(self, names: list[str], pos_slice: Slice | SliceInput = None, also_read: Iterable[str] = ()) -> Tensor:
        """Activations of one shape, copied one after the other: no more than one of them is held beside the stack."""
        self._require([*names, *also_read])
        positions = as_slice(pos_slice)
        stack: Tensor | None = None
        for number, name in enumerate(names):
            activation = self._at(name, positions)
            if stack is None:
                stack = activation.new_empty(len(names), *activation.shape)
            if activation.shape != stack.shape[1:]:
                raise BadInput(
                    f"{names[0]!r} is {list(stack.shape[1:])}, but {name!r} is {list(activation.shape)}: they make no "
                    "stack."
                )
            stack[number] = activation
        assert stack is not None  # callers name one activation at least
        return stack

    def _through_norm_(self, stack: Tensor, reach: Reach, pos_slice: Slice | SliceInput) -> Tensor:
        """A stack of our own through the norm at `reach`, in place."""
        norm = self._reading_norm(reach, as_slice(pos_slice))
        return stack if norm is None else norm.apply_(stack)


def _label(name: str) -> str:
    """``blocks.3.hook_attn_out`` -> ``3_attn_out``; ``hook_embed`` -> ``embed``."""
    return name.removeprefix("blocks.").replace(".hook_", "_").removeprefix("hook_")
