"""Which neurons matter at a position: by how strongly they fire, or by what they add to an answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_widgets.analysis.attribution import READS, direct_logit_attribution
from tl_widgets.analysis.padding import Picked
from tl_widgets.analysis.subject import cache_of
from tl_widgets.errors import BadInput, NotInThisModel, unknown
from tl_widgets.math.slice import Slice, SliceInput
from tl_widgets.results import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MEASURES = ("activation", "attribution")


@dataclass(frozen=True, eq=False, repr=False)
class TopNeurons(Result):
    """A number for every neuron, ``[layer, neuron]``; `top` tells the strongest."""

    def plot(self, title: str | None = None, texts: Any = None, k: int = 20) -> Figure:
        """Return a matplotlib figure: bars of the `k` strongest neurons, whatever their sign."""
        strongest = self.top(k, by="size")
        values = torch.tensor([value for _, value in strongest])
        names = {"neuron": [name for name, _ in strongest]}
        return Result(values, ("neuron",), names, self.quantity).plot(title)


def top_neurons(
    model: Any,
    input: Any = None,
    *,
    by: str = "activation",
    answer_tokens: Any = None,
    incorrect_tokens: Any = None,
    layer: int | None = None,
    pos: Slice | SliceInput = -1,
    cache: Any = None,
) -> TopNeurons:
    """Every neuron's activation, or what it adds to an answer's logit; ``.top(k)`` names the strongest.

    Parameters
    ----------
    input
        A prompt, prompts or tokens, as for the model itself.
    by
        ``"activation"``, or ``"attribution"`` to `answer_tokens` (see `direct_logit_attribution`).
    answer_tokens, incorrect_tokens
        For ``by="attribution"``: the token, and the one that it is compared with.
    layer
        Only this layer's neurons; all by default.
    pos
        At which positions, -1 for each prompt's last token; the mean over several, and over a batch, without padding.
    cache
        Of a run, in the place of `input`.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> neurons = top_neurons(model, [3, 1, 4], by="attribution", answer_tokens=7)
    >>> neurons.values.shape, len(neurons.top(3))
    (torch.Size([2, 64]), 3)
    """
    cfg = model.cfg
    if by not in _MEASURES:
        raise unknown("measure", by, _MEASURES)
    if (by == "attribution") != (answer_tokens is not None):
        raise BadInput("answer_tokens= goes with by='attribution', and is needed there.")
    if cfg.attn_only or cfg.num_experts:
        kind = "attention-only" if cfg.attn_only else "a mixture of experts"
        raise NotInThisModel(f"This model is {kind}: it has no neurons that act at every position.")
    if layer is not None and not -cfg.n_layers <= layer < cfg.n_layers:
        raise BadInput(f"layer is -{cfg.n_layers} to {cfg.n_layers - 1} in this model, not {layer}.")
    layers = list(range(cfg.n_layers)) if layer is None else [layer % cfg.n_layers]
    reads = ("mlp.hook_post",) if by == "activation" else READS["neuron"]
    cache = cache_of(model, input, cache, reads)
    picked = Picked.of(cache, pos)
    if by == "activation":
        values = torch.stack([_activations(cache, each, picked) for each in layers])
        quantity = "activation"
    else:
        attributed = direct_logit_attribution(
            model, None, answer_tokens, incorrect_tokens, unit="neuron", pos=pos, cache=cache, layer=layer
        )
        parts = attributed.attribution[:-1]  # the last is all that is no neuron
        values = picked.mean(parts).view(len(layers), -1).float().cpu()
        quantity = "adds to the logit" if incorrect_tokens is None else "adds to the logit difference"
    labels = {"layer": [f"L{each}" for each in layers], "neuron": [f"N{i}" for i in range(values.shape[1])]}
    return TopNeurons(values, ("layer", "neuron"), labels, quantity)


def _activations(cache: Any, layer: int, picked: Picked) -> Tensor:
    """``[neuron]``: one layer's activations, averaged over what is picked."""
    post = cache["post", layer].detach()
    if post.ndim > 1 + cache.has_batch_dim:
        post = picked.own_of(Slice.unwrap(picked.positions).apply(post, dim=-2), dim=0)
    return picked.mean(post.float().movedim(-1, 0)).cpu()
