"""Direct logit attribution: which parts of a model write an answer's logit."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_widgets.analysis.padding import Picked
from tl_widgets.analysis.subject import cache_of, reads_the_same
from tl_widgets.cache import ActivationCache
from tl_widgets.cache.logits import logit_directions
from tl_widgets.cache.reading import as_slice
from tl_widgets.errors import BadInput, unknown
from tl_widgets.math import Slice, SliceInput
from tl_widgets.results import Result, axes_of_positions, layers_and_heads, position_labels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Attributed = tuple[Tensor, list[str]]
Attribute = Callable[[ActivationCache, Tensor, Any, "int | None"], Attributed]


@dataclass(frozen=True, eq=False, repr=False, init=False)
class DirectLogitAttribution(Result):
    """What each part of a model adds to a logit, or to a difference between two.

    Parameters
    ----------
    attribution
        ``[component, *batch_and_pos]``, in the unit of logits.
    labels
        Names of the components.
    unit
        What a component is: ``"component"``, ``"layer"``, ``"head"`` or ``"neuron"``.
    axes
        Names of the axes that follow; of one alone it is the batch.
    axis_labels
        What is known of their entries.
    """

    labels: list[str] = field(default_factory=list)
    unit: str = "component"

    def __init__(
        self,
        attribution: Tensor,
        labels: list[str],
        unit: str,
        axes: tuple[str, ...] | None = None,
        axis_labels: dict[str, list[str]] | None = None,
        quantity: str = "adds to the logit",
    ) -> None:
        axes = ("batch", "pos")[: attribution.ndim - 1] if axes is None else axes
        super().__init__(attribution, ("component", *axes), {"component": labels, **(axis_labels or {})}, quantity)
        object.__setattr__(self, "labels", labels)
        object.__setattr__(self, "unit", unit)

    def _with(self, values: Tensor, axes: tuple[str, ...], axis_labels: dict[str, list[str]]) -> Result:
        if axes[:1] != ("component",):
            return super()._with(values, axes, axis_labels)
        others = {axis: labels for axis, labels in axis_labels.items() if axis != "component"}
        return DirectLogitAttribution(values, axis_labels["component"], self.unit, axes[1:], others, self.quantity)

    @property
    def attribution(self) -> Tensor:
        """``[component, *batch_and_pos]``, in the unit of logits."""
        return self.values

    def plot(self, title: str | None = None, texts: list[list[str]] | None = None) -> Figure:
        """Return a matplotlib figure: of heads a map of layers x heads, else as for any `Result`.

        Means over batch and pos make a map of heads; what is no head is left out.
        """
        if self.unit != "head":
            return super().plot(title, texts)
        heads = [label for label in self.labels if label.startswith("L")]
        n_heads = sum(label.startswith("L0H") for label in heads)
        names = layers_and_heads(len(heads) // n_heads if n_heads else 0, n_heads)
        if heads != [layer + head for layer in names["layer"] for head in names["head"]]:
            return super().plot(title, texts)  # some were picked: they fill no map
        values = self.values[: len(heads)].flatten(1).mean(1) if self.values.ndim > 1 else self.values[: len(heads)]
        return Result(values.view(-1, n_heads), ("layer", "head"), names, self.quantity).plot(title, texts)

    def top(self, k: int = 5, by: str = "value") -> list[tuple[str, float]]:
        """The `k` components that add most, the largest first: names, and means over what is left of batch and pos."""
        if self.values.ndim == 1:
            return super().top(k, by)
        means = self.values.flatten(1).mean(1)
        return Result(means, ("component",), {"component": self.labels}, self.quantity).top(k, by)


def direct_logit_attribution(
    model: Any,
    input: Any = None,
    answer_tokens: Any = None,
    incorrect_tokens: Any = None,
    *,
    unit: str = "component",
    pos: Slice | SliceInput = -1,
    cache: ActivationCache | None = None,
    layer: int | None = None,
) -> DirectLogitAttribution:
    """How much each part of a model adds to an answer's logit, or to its difference from another's, all by itself.

    The final norm is held at the scale that it had, which makes the logit a sum over parts: the parts sum to it,
    before any soft cap and less the constants that no part writes (`b_U`, and the final norm's bias).

    Parameters
    ----------
    model
        A `HookedTransformer`; its final norm may have a gain of its own.
    input
        What to run it on; not needed with `cache`, which else has to be of it.
    answer_tokens, incorrect_tokens
        A token as a string or id, or ids ``[batch]`` or ``[batch, pos]``; both of one shape.
    unit
        ``"component"``: embeddings, attentions, MLPs; ``"head"``: heads, and all else as ``remainder``; ``"neuron"``:
        neurons likewise; ``"layer"``: the residual stream so far, at each layer, which ends on the total.
    pos
        Which positions, see `tl_widgets.math.Slice`; -1 is each prompt's last token, whatever pads it.
    cache
        Of a run that was made already.
    layer
        For ``unit="neuron"``: those of this layer alone.

    Returns
    -------
    DirectLogitAttribution
        ``attribution`` ``[component, *batch_and_pos]``, ``labels``, ``unit``.

    Raises
    ------
    UnknownName
        If there is no such unit.
    BadInput
        If there is no answer, or neither input nor cache, or the cache of something else.

    Notes
    -----
    Elhage et al. (2021), "A Mathematical Framework for Transformer Circuits".

    Examples
    --------
    >>> import torch
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> result = direct_logit_attribution(model, [3, 1, 4], answer_tokens=7, incorrect_tokens=9)
    >>> result.labels
    ['embed', 'pos_embed', '0_attn_out', '0_mlp_out', '1_attn_out', '1_mlp_out']
    >>> logits = model([3, 1, 4])[:, -1]
    >>> torch.allclose(result.attribution.sum(0), logits[:, 7] - logits[:, 9], atol=1e-5)
    True
    """
    if unit not in _UNITS:
        raise unknown("unit", unit, _UNITS)
    if answer_tokens is None:
        raise BadInput("answer_tokens is needed: the token whose logit is attributed, as a string or an id.")
    if layer is not None and unit != "neuron":
        raise BadInput(f"layer= is for unit='neuron', not for unit={unit!r}.")
    with torch.no_grad():
        directions = logit_directions(model, answer_tokens, incorrect_tokens)
        gain = getattr(model.ln_final, "w", None)
        if gain is not None:  # what the unembedding reads is multiplied by it
            directions = directions * gain.to(directions)
        if cache is not None and input is not None and reads_the_same(model, input, cache):
            input = None  # the field gives both
        cache = cache_of(model, input, cache, READS[unit])
        picked = Picked.of(cache, pos)
        attribution, labels = _UNITS[unit](cache, directions, picked.positions, layer)
        attribution = picked.own_of(attribution)
    axes = axes_of_positions(cache, attribution.ndim - 1)
    tokens = position_labels(cache, attribution.shape[-1], pos) if "pos" in axes else {}
    quantity = "adds to the logit" if incorrect_tokens is None else "adds to the logit difference"
    return DirectLogitAttribution(attribution, labels, unit, axes, tokens, quantity)


def _of_stack(stack_of: Callable[..., Any]) -> Attribute:
    """Attribute each component of a stack, which ``stack_of(cache, pos_slice=..., return_labels=True)`` makes."""

    def attribute(cache: ActivationCache, directions: Tensor, pos: Any, layer: int | None) -> Attributed:
        stack, labels = stack_of(cache, pos_slice=pos, return_labels=True)
        return cache.attrs_along(stack, directions, pos_slice=pos), labels

    return attribute


def _of_neurons(cache: ActivationCache, directions: Tensor, pos: Any, layer: int | None) -> Attributed:
    """Neurons, of one layer or all, and the remainder."""
    n_layers = cache.model.cfg.n_layers
    layers = range(n_layers) if layer is None else [layer]
    parts = [cache.neuron_attrs_along(each, directions, pos_slice=pos) for each in layers]
    labels = [
        f"L{each % n_layers}N{neuron}" for each, part in zip(layers, parts, strict=True) for neuron in range(len(part))
    ]
    end = as_slice(pos).apply(cache["resid_post", -1], dim=int(cache.has_batch_dim))[None]
    remainder = cache.attrs_along(end, directions, pos_slice=pos) - sum(part.sum(0) for part in parts)
    return torch.cat([*parts, remainder]), [*labels, "remainder"]


_UNITS: dict[str, Attribute] = {
    "component": _of_stack(ActivationCache.decompose_resid),
    "layer": _of_stack(partial(ActivationCache.accumulated_resid, incl_mid=True)),
    "head": _of_stack(partial(ActivationCache.stack_head_results, incl_remainder=True)),
    "neuron": _of_neurons,
}
_ALWAYS = ("ln_final.hook_scale", "_post.hook_scale", "hook_resid_post")
# What each unit reads: the ends of the names of activations.
READS = {
    "component": (*_ALWAYS, "hook_embed", "hook_pos_embed", "hook_attn_out", "hook_mlp_out"),
    "layer": (*_ALWAYS, "hook_resid_pre", "hook_resid_mid"),
    "head": (*_ALWAYS, "hook_z", "hook_result"),
    "neuron": (*_ALWAYS, "mlp.hook_post"),
}
