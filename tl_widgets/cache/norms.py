"""Norms as they were in that run: with the scale held fixed a norm is linear, and acts on each component alone."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from tl_widgets.cache.reading import Reach, Readable, as_slice
from tl_widgets.errors import BadInput, UnknownName
from tl_widgets.math import Slice, SliceInput

_CENTRING = ("LN", "LNPre")


@dataclass(frozen=True)
class FrozenNorm:
    """A norm with the scale of one run: ``x -> centred(x) / scale * gain``, linear in `x`.

    Parameters
    ----------
    scale
        ``[*batch_and_pos, 1]``, as it was cached.
    centres
        Whether the mean over d_model is taken away first (LayerNorm).
    gain, bias
        ``[d_model]``, or None; the bias is a constant, and no part of the linear map.
    """

    scale: Tensor
    centres: bool
    gain: Tensor | None = None
    bias: Tensor | None = None

    def apply_(self, x: Tensor) -> Tensor:
        """``[..., *batch_and_pos, d_model]``, in place."""
        if self.centres:
            x.sub_(x.mean(-1, keepdim=True))
        x.div_(self.scale.to(x.device))
        return x if self.gain is None else x.mul_(self.gain.to(x))

    def pulled_back(self, directions: Tensor) -> Tensor:
        """Directions ``[d_model, k]`` behind the norm -> those before it that give the same products, times the scale.

        What a norm does to a wide stack is thus done to a few directions instead.
        """
        if self.gain is not None:
            directions = directions * self.gain.to(directions)[:, None]
        return directions - directions.mean(0, keepdim=True) if self.centres else directions


@dataclass(frozen=True)
class Readout:
    """What is kept of each component: its vector, or its products with `directions` ``[d_model, k]``.

    Parameters
    ----------
    norm
        The norm that all components go through, or None.
    d_model
        Width of the residual stream.
    squeezes
        Whether the one direction was given without a dimension of its own.
    """

    directions: Tensor | None
    norm: FrozenNorm | None
    d_model: int
    squeezes: bool = False

    @classmethod
    def build(cls, projection: Tensor | None, norm: FrozenNorm | None, d_model: int, like: Tensor) -> Readout:
        """From a `projection` ``[d_model]`` or ``[d_model, k]``, for activations of the dtype and device of `like`."""
        if projection is None:
            return cls(None, norm, d_model)
        if projection.ndim not in (1, 2) or projection.shape[0] != d_model:
            raise BadInput(
                f"project_output_onto is [d_model] or [d_model, k] with d_model={d_model}, not "
                f"{list(projection.shape)}."
            )
        directions = projection.detach().to(like).reshape(d_model, -1)
        directions = directions if norm is None else norm.pulled_back(directions)
        return cls(directions, norm, d_model, squeezes=projection.ndim == 1)

    @property
    def width(self) -> int:
        """Numbers kept of a component at a position."""
        return self.d_model if self.directions is None else self.directions.shape[1]

    def of_weights(self, weight: Tensor, post: FrozenNorm | None = None) -> Tensor:
        """Weights that write to the residual stream, ``[..., d_model]`` -> what is kept of them, ``[..., width]``."""
        if self.directions is None:
            return weight
        return weight @ (self.directions if post is None else post.pulled_back(self.directions))

    def behind(self, post: FrozenNorm | None, written_: Tensor) -> Tensor:
        """Let what `of_weights` wrote, ``[..., *batch_and_pos, width]``, go through a post-norm, in place."""
        if post is None:
            return written_
        return post.apply_(written_) if self.directions is None else written_.div_(post.scale.to(written_.device))

    def of_vectors(self, vectors: Tensor) -> Tensor:
        """``[..., d_model]`` -> ``[..., width]``."""
        return vectors if self.directions is None else vectors @ self.directions

    def finish_(self, stack: Tensor) -> Tensor:
        """Let the whole stack go through the norm, in place."""
        if self.norm is None:
            return stack
        return self.norm.apply_(stack) if self.directions is None else stack.div_(self.norm.scale.to(stack.device))

    def squeezed(self, stack: Tensor) -> Tensor:
        """``[..., width]``, without its last dimension where the projection was onto one direction ``[d_model]``."""
        return stack.squeeze(-1) if self.squeezes else stack


class NormMethods(Readable):
    """The norms of the run, applied to stacks of components."""

    def _scale_name(self, norm: str) -> list[str]:
        """Name of a norm's cached scale; empty in a model without norms."""
        return [] if self.model.cfg.normalization_type is None else [f"{norm}.hook_scale"]

    def _post_norm_names(self, layer: int, sublayer: str) -> list[str]:
        """Name of the cached scale behind a sublayer (``"ln1"`` attention's, ``"ln2"`` the MLP's); empty without."""
        has_post_norms = self.model.cfg.use_normalization_before_and_after
        return self._scale_name(f"blocks.{layer}.{sublayer}_post") if has_post_norms else []

    def _reading_norm(self, reach: Reach, positions: Slice) -> FrozenNorm | None:
        """The norm that reads the residual stream at `reach`, without its gain; None in a model without norms."""
        if self.model.cfg.normalization_type is None:
            return None
        if reach.mlp_input and self.model.cfg.attn_only:
            raise UnknownName("An attention-only model has no norm before an MLP: leave out mlp_input, or apply_ln.")
        return FrozenNorm(self._unsplit_scale(reach, positions), self.model.cfg.normalization_type in _CENTRING)

    def _unsplit_scale(self, reach: Reach, positions: Slice) -> Tensor:
        """``[*batch_and_pos, 1]``, also where each head normed an input of its own and cached a scale for it."""
        name = f"{reach.norm}.hook_scale"
        stream_name = self._stream_name(reach)
        n_dims = self[stream_name].ndim if stream_name in self else int(self.has_batch_dim) + 2
        if reach.is_end or reach.mlp_input or self[name].ndim == n_dims:
            return self._at(name, positions)
        stream = self._at(stream_name, positions).to(self[name].dtype)  # at least single precision
        if self.model.cfg.normalization_type in _CENTRING:
            stream = stream - stream.mean(-1, keepdim=True)
        return (stream.pow(2).mean(-1, keepdim=True) + self.model.cfg.eps).sqrt()

    def _post_norm(self, layer: int, sublayer: str, positions: Slice) -> FrozenNorm | None:
        """The norm between a sublayer and the residual stream, with its gain; None where there is none."""
        names = self._post_norm_names(layer, sublayer)
        if not names:
            return None
        norm = getattr(self.model.blocks[layer], f"{sublayer}_post")
        gain, bias = (None if w is None else w.detach() for w in (norm.w, getattr(norm, "b", None)))
        return FrozenNorm(self._at(names[0], positions), self.model.cfg.normalization_type in _CENTRING, gain, bias)

    def apply_ln_to_stack(
        self,
        residual_stack: Tensor,
        layer: int | None = None,
        mlp_input: bool = False,
        pos_slice: Slice | SliceInput = None,
        batch_slice: Slice | SliceInput = None,
        has_batch_dim: bool = True,
        recompute_ln: bool = False,
    ) -> Tensor:
        """Let each component through the norm that read their sum in this run: linear, so the parts keep their sum.

        Centre it (LayerNorm only) and divide by the *cached* scale; gain and bias are not applied (they are folded
        into what reads the norm, or should be). A model without norms returns the stack as it is.

        Parameters
        ----------
        residual_stack
            ``[component, *batch_and_pos, d_model]``, or one component alone, without that axis.
        layer, mlp_input
            The norm: that before this layer's attention, or before its MLP; None, -1 or n_layers is the final norm.
        pos_slice
            Which positions `residual_stack` holds: it has been sliced already, and the scale follows.
        batch_slice
            Which items of the batch to return. (A stack without batch dimension is one of them already.)
        has_batch_dim
            Whether `residual_stack` has a batch dimension.
        recompute_ln
            Norm each component by its own statistics, gain and bias included, as if it were all there is. Only at the
            end of the model; elsewhere it counts nothing.

        Returns
        -------
        Tensor
            ``[component, *batch_and_pos, d_model]``, a new tensor.

        Examples
        --------
        >>> import torch
        >>> from tl_widgets import HookedTransformer
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> _, cache = model.run_with_cache([3, 1, 4])
        >>> normed = cache.apply_ln_to_stack(cache.decompose_resid())
        >>> torch.allclose(normed.sum(0), cache["normalized"], atol=1e-5)
        True
        """
        reach = self._reach(layer, mlp_input, whole_model_has_no_mlp=False)
        if self.model.cfg.normalization_type is None:
            return residual_stack
        if recompute_ln and reach.is_end:
            return self._normed_alone(residual_stack)
        stack, norm, _ = self._picked_with_norm(residual_stack, reach, pos_slice, batch_slice, has_batch_dim)
        assert norm is not None  # there is one, see above
        return norm.apply_(stack.clone())

    def _normed_alone(self, stack: Tensor) -> Tensor:
        """Each component through the whole final norm, by its own statistics; no hook fires."""
        cfg, norm = self.model.cfg, self.model.ln_final
        gain, bias = (None if w is None else w.to(stack) for w in (getattr(norm, "w", None), getattr(norm, "b", None)))
        if cfg.normalization_type in _CENTRING:
            return F.layer_norm(stack, stack.shape[-1:], gain, bias, cfg.eps)
        return F.rms_norm(stack, stack.shape[-1:], gain, cfg.eps)

    def _picked_with_norm(
        self,
        stack: Tensor,
        reach: Reach,
        pos_slice: Slice | SliceInput,
        batch_slice: Slice | SliceInput,
        has_batch_dim: bool,
    ) -> tuple[Tensor, FrozenNorm | None, bool]:
        """The stack with its batch sliced, the norm at `reach` for it, and whether it is one component without axis."""
        items, has_batch_dim = as_slice(batch_slice), has_batch_dim and self.has_batch_dim
        if self.model.cfg.normalization_type is None:
            has_pos = as_slice(pos_slice).mode != "int" and self.positions.mode != "int"
            is_alone = stack.ndim == has_batch_dim + has_pos + 1
            picks = has_batch_dim and stack.ndim > 1 + (not is_alone)
            return (items.apply(stack, dim=0 if is_alone else 1) if picks else stack), None, is_alone
        self._require(self._scale_name(reach.norm))
        norm = self._reading_norm(reach, as_slice(pos_slice))
        assert norm is not None
        scale = norm.scale
        is_alone = scale.shape[:-1] == stack.shape[:-1] and has_batch_dim == self.has_batch_dim
        if self.has_batch_dim:
            scale = items.apply(scale)
        if has_batch_dim:
            stack = items.apply(stack, dim=0 if is_alone else 1)
        leads = scale.shape[:-1]
        if not is_alone and self.has_batch_dim and not has_batch_dim and items.mode != "int" and len(scale) == 1:
            leads = leads[1:]  # a batch of one, which the stack has gone without
        fits = stack.shape[-len(leads) - 1 : -1] if leads else ()
        if len(leads) != stack.ndim - (1 if is_alone else 2) or any(
            s not in (1, n) for s, n in zip(leads, fits, strict=True)
        ):
            raise BadInput(
                f"residual_stack is {list(stack.shape)}, but the norm's scale there is {list(scale.shape)}. Slice "
                "positions of the stack first: pos_slice says how. batch_slice does slice it, if has_batch_dim says "
                "that it has one."
            )
        return stack, FrozenNorm(scale, norm.centres), is_alone
