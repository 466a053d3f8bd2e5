"""What components add to logits, through the final norm and the unembedding."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.neurons import NeuronMethods
from tl_widgets.cache.norms import Readout
from tl_widgets.cache.reading import as_slice
from tl_widgets.errors import BadInput
from tl_widgets.math import Slice, SliceInput


class LogitMethods(NeuronMethods):
    """Direct contributions to logits."""

    def logit_attrs(
        self,
        residual_stack: Tensor,
        tokens: Any,
        incorrect_tokens: Any = None,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """What each component adds to the logit of a token, or to the difference between two tokens' logits.

        The final norm's cached scale is applied here: give a stack that has not been through a norm. Its gain and
        bias are not: fold them into the unembedding (``fold_ln=True``), or see
        `tl_widgets.analysis.direct_logit_attribution`, which does.

        Parameters
        ----------
        residual_stack
            ``[component, *batch_and_pos, d_model]``, or one component alone, without that axis.
        tokens, incorrect_tokens
            A token as a string or id, or ids ``[batch]`` (one for each prompt, at every position) or ``[batch,
            pos]``; both of one shape. For a stack without batch dimension, ids ``[pos]``.
        pos_slice
            Which positions `residual_stack` holds: it has been sliced already.
        batch_slice
            Which items of the batch to return; tokens are given for these alone.
        has_batch_dim
            Whether `residual_stack` has a batch dimension.

        Returns
        -------
        Tensor
            ``[component, *batch_and_pos]``, in the unit of logits.

        Raises
        ------
        BadInput
            If the shapes of the tokens, or of the stack and the norm's scale, do not fit.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> logits, cache = model.run_with_cache([3, 1, 4])
        >>> attributions = cache.logit_attrs(cache.decompose_resid(), tokens=7)
        >>> attributions.shape
        torch.Size([6, 1, 3])
        >>> torch.allclose(attributions.sum(0), logits[..., 7], atol=1e-5)
        True
        """
        directions = logit_directions(self.model, tokens, incorrect_tokens)
        gain = getattr(self.model.ln_final, "w", None)
        if gain is not None and bool((gain != 1).any()):
            warnings.warn(
                "This model's final norm has a gain of its own, which logit_attrs leaves out: load the model with "
                "fold_ln=True, or use direct_logit_attribution.",
                stacklevel=2,
            )
        return self.attrs_along(residual_stack, directions, pos_slice, batch_slice, has_batch_dim)

    def attrs_along(
        self,
        residual_stack: Tensor,
        directions: Tensor,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
    ) -> Tensor:
        """What each component adds, behind the final norm, along any directions: `logit_attrs` for what is no token.

        Parameters
        ----------
        residual_stack, pos_slice, batch_slice, has_batch_dim
            As in `logit_attrs`.
        directions
            ``[d_model]``, ``[batch, d_model]`` or ``[batch, pos, d_model]``: a probe, or `logit_directions` of tokens.

        Returns
        -------
        Tensor
            ``[component, *batch_and_pos]``.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> cache.attrs_along(cache.decompose_resid(), torch.ones(16)).shape
        torch.Size([6, 1, 3])
        """
        stack, norm, is_alone = self._picked_with_norm(
            residual_stack, self._reach(None), pos_slice, batch_slice, has_batch_dim
        )
        directions = directions.to(stack)
        if norm is not None and norm.centres:  # of the few directions, in the place of the stack
            directions = directions - directions.mean(-1, keepdim=True)
        if is_alone:
            stack = stack[None]
        products = _products(stack, _aligned(directions, stack.shape[1:-1]))
        if norm is not None:
            products = products / norm.scale.to(stack.device).squeeze(-1)
        return products[0] if is_alone else products

    @torch.no_grad()
    def neuron_attrs_along(self, layer: int, directions: Tensor, pos_slice: Slice | SliceInput = None) -> Tensor:
        """What each neuron of one layer adds, behind the final norm, along directions; no neuron's vector is formed.

        Parameters
        ----------
        layer
            This layer; negative ones count from the end.
        directions
            As in `attrs_along`.
        pos_slice
            Which positions, see `tl_widgets.math.Slice`; others are not computed.

        Returns
        -------
        Tensor
            ``[neuron, *batch_and_pos]``.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> cache.neuron_attrs_along(-1, model.W_U[:, 7], pos_slice=-1).shape
        torch.Size([64, 1])
        """
        layer, end, positions = self._layer(layer), self._reach(None), as_slice(pos_slice)
        names = self._neuron_names(layer)
        self._require([*names, *self._scale_name(end.norm)])
        activations = self._at(names[0], positions)
        # Prompts and positions with one direction share its products with the weights.
        aligned = _aligned(directions.to(activations), activations.shape[:-1])
        distinct, which = aligned.reshape(-1, aligned.shape[-1]).unique(dim=0, return_inverse=True)
        which = which.view(aligned.shape[:-1])  # no dimension where one direction is for all
        norm, post = self._reading_norm(end, positions), self._post_norm(layer, "ln2", positions)
        readout = Readout.build(distinct.T, norm, self.model.cfg.d_model, activations)
        products = readout.of_weights(self.model.blocks[layer].mlp.W_out.detach().to(activations.device), post)
        products = products[:, which]
        products = products.reshape(*products.shape, *[1] * (activations.ndim - products.ndim))
        attributions = activations.movedim(-1, 0) * products
        return readout.finish_(readout.behind(post, attributions[..., None])).squeeze(-1)


def logit_directions(model: Any, tokens: Any, incorrect_tokens: Any = None) -> Tensor:
    """Directions of tokens' logits, or of the difference between two tokens': ``[*shape of the tokens, d_model]``."""
    directions, shape = model.tokens_to_residual_directions(tokens), _shape(tokens)
    if incorrect_tokens is not None:
        if _shape(incorrect_tokens) != shape:
            raise BadInput(f"tokens and incorrect_tokens have one shape, not {shape} and {_shape(incorrect_tokens)}.")
        directions = directions - model.tokens_to_residual_directions(incorrect_tokens)
    return directions.reshape(*shape, -1)


def _shape(tokens: Any) -> list[int]:
    """``[]`` of a token, ``[n]`` of a list or tensor of them, ..."""
    is_one = isinstance(tokens, str)
    return [] if is_one else [len(tokens)] if _are_strings(tokens) else list(torch.as_tensor(tokens).shape)


def _are_strings(tokens: Any) -> bool:
    return isinstance(tokens, (list, tuple)) and any(isinstance(token, str) for token in tokens)


def _aligned(directions: Tensor, batch_and_pos: torch.Size) -> Tensor:
    """Directions of tokens ``[]``, ``[batch]``, ``[batch, pos]`` (or ``[pos]``) as ``[*batch_and_pos, d_model]``."""
    shape = directions.shape[:-1]
    if not shape:
        return directions
    if len(shape) == 1 and len(batch_and_pos) == 2 and (shape[0] == batch_and_pos[0] or batch_and_pos[0] != 1):
        directions = directions[:, None]  # for each prompt, at every position
    try:
        return directions.expand(*batch_and_pos, -1)
    except RuntimeError:
        raise BadInput(
            f"tokens are {list(shape)}, but the stack's batch and position, as it was sliced, are "
            f"{list(batch_and_pos)}: give one token, or one for each prompt, or one for each prompt and position."
        ) from None


def _products(stack: Tensor, directions: Tensor) -> Tensor:
    """``[component, *batch_and_pos, d_model]`` times ``[d_model]`` or ``[*batch_and_pos, d_model]``, summed over it.

    One matrix product for each prompt and position, so that nothing of the stack's size is formed.
    """
    if directions.ndim == 1:
        return stack @ directions
    return (stack.movedim(0, -2) @ directions[..., None]).squeeze(-1).movedim(-1, 0)
