"""The plain way: a whole pass for every patch, with the setter as a hook; right for any model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.metrics import AnyMetric, Metric, number
from tl_widgets.patching.patches import Sites


def plain(
    run: CorruptedRun,
    sites: Sites,
    metric: AnyMetric,
    indices: Sequence[Sequence[Any]],
    per_example: bool = False,
) -> Tensor:
    """Values of the patches for some indices, ``[n]`` or ``[n, batch]``, from one pass for all of them.

    More than one index is right only where nothing in the model mixes the examples of a batch.
    """
    model, n, batch = run.model, len(indices), run.batch
    hooks = []
    for layer in dict.fromkeys(index[0] for index in indices):
        name = sites.name(layer, model)
        hooks.append((name, _put_in(sites, sites.clean_activation(name), indices, batch, layer)))
    with torch.no_grad(), model.hooks(hooks):
        logits = model(run.tokens.repeat(n, 1), attention_mask=run.real.repeat(n, 1)).unflatten(0, (n, batch))
    if per_example and isinstance(metric, Metric):
        return torch.stack([metric.per_example(each).double() for each in logits])
    return torch.tensor([number(metric(each)) for each in logits], dtype=torch.float64)


def _put_in(
    sites: Sites, clean: Tensor, indices: Sequence[Sequence[Any]], batch: int, layer: int
) -> Callable[..., Tensor | None]:
    def hook(activation: Tensor, hook: Any) -> Tensor | None:
        if len(indices) == 1:
            return sites.setter(activation, indices[0], clean)
        patched = activation.clone()
        for i, index in enumerate(indices):
            if index[0] == layer:
                mine = patched[i * batch : (i + 1) * batch]
                returned = sites.setter(mine, index, clean)
                if returned is not None:
                    mine.copy_(returned)
        return patched

    return hook
