"""How much each component writes: the length of what it adds to the residual stream."""

from __future__ import annotations

from typing import Any

import torch

from tl_widgets.analysis.subject import cache_of
from tl_widgets.errors import unknown
from tl_widgets.results import Result, axes_of_positions, layers_and_heads, position_labels

# What each unit reads: the ends of the names of activations.
_UNITS = {
    "component": ("hook_embed", "hook_pos_embed", "hook_attn_out", "hook_mlp_out"),
    "head": ("hook_z", "hook_result", "_post.hook_scale"),
}


def component_norms(model: Any, input: Any = None, *, unit: str = "component", cache: Any = None) -> Result:
    """Euclidean norm of what each component adds to the residual stream, at each position.

    Parameters
    ----------
    input
        A prompt, prompts or tokens, as for the model itself.
    unit
        ``"component"``: embeddings, attentions and MLPs; ``"head"``: heads.
    cache
        Of a run, in the place of `input`.

    Returns
    -------
    Result
        ``[component, *batch_and_pos]`` or ``[layer, head, *batch_and_pos]``.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> norms = component_norms(model, [3, 1, 4])
    >>> norms.labels_of("component")
    ['embed', 'pos_embed', '0_attn_out', '0_mlp_out', '1_attn_out', '1_mlp_out']
    >>> component_norms(model, [3, 1, 4], unit="head")["L1H2"].axes
    ('batch', 'pos')
    """
    if unit not in _UNITS:
        raise unknown("unit", unit, _UNITS)
    cache = cache_of(model, input, cache, reads=_UNITS[unit])
    cfg = model.cfg
    first: tuple[str, ...]
    with torch.no_grad():
        if unit == "component":
            stack, labels = cache.decompose_resid(return_labels=True)
            norms, first, axis_labels = stack.norm(dim=-1), ("component",), {"component": labels}
        else:
            norms = torch.stack([cache.stack_head_norms(layer) for layer in range(cfg.n_layers)])
            first, axis_labels = ("layer", "head"), layers_and_heads(cfg.n_layers, cfg.n_heads)
    axes = (*first, *axes_of_positions(cache, norms.ndim - len(first)))
    if axes[-1] == "pos":
        axis_labels = axis_labels | position_labels(cache, norms.shape[-1])
    return Result(norms, axes, axis_labels, "norm")
