"""Attribution patching: what each patch would do, to first order, from two forward passes and one backward.

An approximation, good where the model is nearly linear between the two runs: it ranks places, and `verify` measures the
first of them (https://www.neelnanda.io/mechanistic-interpretability/attribution-patching).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_widgets.cache import get_act_name
from tl_widgets.errors import BadInput
from tl_widgets.patching.indices import sizes_of
from tl_widgets.patching.metrics import AnyMetric, Metric
from tl_widgets.patching.places import setter_of
from tl_widgets.patching.result import PatchingResult
from tl_widgets.results import Result

if TYPE_CHECKING:
    from tl_widgets.patching.corrupted import CorruptedRun
    from tl_widgets.patching.pair import Direction, PatchingPair

# The axes of an activation behind its batch, without the last one where that is a vector.
_STREAM, _HEADS, _PATTERN = ("pos",), ("pos", "head"), ("head", "dest_pos", "src_pos")
_AXES = dict.fromkeys(("z", "q", "k", "v"), _HEADS) | {"pattern": _PATTERN}


@dataclass(frozen=True, eq=False, repr=False, init=False)
class AttributionPatchingResult(PatchingResult):
    """First-order estimates of what a sweep would measure; see `PatchingResult` and `verify`."""

    pair: Any = None
    place: str = ""
    direction: str = "denoise"

    def verify(self, k: int = 10, by: str = "size") -> Result:
        """Measure the `k` strongest places exactly.

        Parameters
        ----------
        k, by
            As in `Result.top`, of the estimated change: ``"size"`` counts both signs.

        Returns
        -------
        Result
            ``[place, how]``, with ``how`` ``"estimated"`` and ``"measured"``.
        """
        unpatched = 0.0 if self.direction == "denoise" else 1.0
        base = self.normal()
        strongest = (base - unpatched).strongest(k, by)
        shape = base.values.shape
        indices = [tuple(int(i) for i in torch.unravel_index(torch.tensor(flat), shape)) for flat, _ in strongest]
        measured = self.pair.measure(self.place, self.axes, indices, direction=self.direction)
        values = torch.stack([base.values.flatten()[[flat for flat, _ in strongest]], measured], dim=-1)
        names = [self._described(flat) for flat, _ in strongest]
        labels = {"place": names, "how": ["estimated", "measured"]}
        return Result(values, ("place", "how"), labels, self.normal().quantity)


def attribution_patch(
    pair: PatchingPair,
    place: str,
    by: Sequence[str] | None = None,
    *,
    direction: Direction = "denoise",
    steps: int = 1,
    normalised: bool = True,
) -> AttributionPatchingResult:
    """Estimate a whole sweep at once: the metric's gradient, times the difference between the two runs.

    Parameters
    ----------
    pair
        Its metric has to be differentiable.
    place, by, direction, normalised
        As in `PatchingPair.patch`.
    steps
        1 takes the gradient in the patched run itself; more average it over that many inputs on the straight line
        between the two prompts' embeddings (integrated gradients, https://arxiv.org/abs/2403.17806).

    Returns
    -------
    AttributionPatchingResult
        Estimates, not measurements; ``.verify(k)`` measures the strongest.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer, patching
    >>> model = HookedTransformer.from_pretrained("toy-induction")
    Loaded pretrained model toy-induction into HookedTransformer
    >>> pair = patching.PatchingPair(
    ...     model, "red dog big house red", "blue dog big house red", answer="dog", wrong="house", progress=False
    ... )
    >>> patching.attribution_patch(pair, "z").axes
    ('layer', 'head')
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
        raise BadInput(f"steps is a whole number from 1 on, not {steps!r}.")
    axes, _ = setter_of(place, by)
    model, metric = pair.model, pair.metric
    into, source = pair.runs(direction)
    names = [get_act_name(place, layer) for layer in range(model.cfg.n_layers)]
    slopes = _mean_gradients(into, source, metric, names, steps)
    kept = [axis for axis in axes if axis != "layer"]
    n_examples = len(pair.baselines.clean)
    layers = []
    for name in names:
        with torch.no_grad():
            effect = slopes[name] * (source.cache[name] - into.cache[name]).nan_to_num(nan=0.0)  # -inf less -inf
        layers.append(_reduced(effect, _AXES.get(place, _STREAM), kept, n_examples))
    effects = torch.stack(layers).double().cpu()  # [layer, *kept, example]
    unpatched = pair.baselines.corrupted if direction == "denoise" else pair.baselines.clean
    result = object.__new__(AttributionPatchingResult)
    sizes = sizes_of(axes, model.cfg, into.n_pos, place)
    how = "one gradient" if steps == 1 else f"{steps} gradients"
    text = f"{place}, estimated from {how}"
    order = [kept.index(axis) + 1 if axis != "layer" else 0 for axis in axes]
    values = effects.permute(*order, -1) + unpatched
    PatchingResult.__init__(result, values, axes, pair.labels(axes, sizes), pair.baselines, text, 0, normalised)
    for name, value in (("pair", pair), ("place", place), ("direction", direction)):
        object.__setattr__(result, name, value)
    return result


def _reduced(effect: Tensor, its_axes: Sequence[str], kept: Sequence[str], n_examples: int) -> Tensor:
    """``[batch, *axes, (vector)]`` summed to ``[*kept, example]``."""
    if effect.ndim > len(its_axes) + 1:
        effect = effect.sum(-1)
    gone = [axis for axis, name in enumerate(its_axes, start=1) if name not in kept]
    effect = effect.sum(gone) if gone else effect
    remaining = [name for name in its_axes if name in kept]
    effect = effect.permute(*[remaining.index(name) + 1 for name in kept], 0)
    return effect if n_examples == effect.shape[-1] else effect.sum(-1, keepdim=True)


def _mean_gradients(
    into: CorruptedRun, source: CorruptedRun, metric: AnyMetric, names: Sequence[str], steps: int
) -> dict[str, Tensor]:
    start, end = into.entering(0), source.entering(0)
    if steps == 1:
        return gradients(into, metric, names, start)
    total: dict[str, Tensor] = {}
    for step in range(steps):
        found = gradients(into, metric, names, start + (step + 0.5) / steps * (end - start))
        for name, gradient in found.items():
            total[name] = total.get(name, 0.0) + gradient / steps
    return total


def gradients(run: CorruptedRun, metric: AnyMetric, names: Sequence[str], entering: Tensor) -> dict[str, Tensor]:
    """Gradients of a metric with respect to activations, each example's of its own value.

    Parameters
    ----------
    run
        Whose tokens and mask; `entering` is the residual stream that enters its first block.
    names
        Full names of the activations.
    """
    model, found = run.model, dict[str, Tensor]()

    def keep(gradient: Tensor, hook: Any) -> None:
        found[hook.name] = gradient.detach()

    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)  # gradients of weights would cost as much again, and nobody reads them
    try:
        with torch.enable_grad(), model.hooks(bwd_hooks=[(name, keep) for name in names]):
            logits = model(
                entering.detach().clone().requires_grad_(),
                start_at_layer=0,
                tokens=run.tokens,
                attention_mask=torch.ones_like(run.tokens) if run.tokens_mask is None else run.tokens_mask,
            )
            value = metric.per_example(logits).sum() if isinstance(metric, Metric) else metric(logits)
            if not isinstance(value, Tensor) or not value.requires_grad:
                raise BadInput(
                    "Attribution patching needs a metric that is differentiable: a tensor made of the logits."
                )
            value.sum().backward()
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return found
