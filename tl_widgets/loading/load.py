"""A source's weights into a model, in place and tensor by tensor."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput, CannotLoad
from tl_widgets.loading.families import family_of
from tl_widgets.loading.families.family import Family
from tl_widgets.loading.sources import Source
from tl_widgets.network import Network


def config_of(source: Source, **overrides: Any) -> tuple[HookedTransformerConfig, Family]:
    """Return the config of a source in our terms, and the family that reads its weights.

    Parameters
    ----------
    overrides
        Fields of the config that the caller sets; ``first_n_layers`` and ``n_ctx`` shorten the model.
    """
    family = family_of(source.architecture)
    fields = {"model_name": source.name, "original_architecture": source.architecture} | family.config(source.config)
    first_n_layers, n_ctx = overrides.pop("first_n_layers", None), overrides.pop("n_ctx", None)
    if first_n_layers is not None:
        if not 0 < first_n_layers <= fields["n_layers"]:
            raise BadInput(f"first_n_layers is 1 to {fields['n_layers']} for {source.name}, not {first_n_layers}.")
        fields["n_layers"] = first_n_layers
    if n_ctx is not None:
        is_learned = fields.get("positional_embedding_type", "standard") in ("standard", "shortformer")
        if n_ctx < 1 or (is_learned and n_ctx > fields["n_ctx"]):
            raise BadInput(f"n_ctx is 1 to {fields['n_ctx']} for {source.name}, not {n_ctx}: positions are learned.")
        fields["n_ctx"] = n_ctx
    return HookedTransformerConfig.from_dict(fields | overrides | {"init_weights": False}), family


# How many columns are converted at a time.
_COLUMNS = 1024


def _copy(tensor: Tensor, parameter: Tensor) -> None:
    if parameter.ndim == 2 and not parameter.is_contiguous():
        # Torch transposes in blocks, four times as fast, where the destination is the one in order.
        tensor, parameter = tensor.T, parameter.T
    if tensor.dtype == parameter.dtype or tensor.ndim == 0:
        parameter.copy_(tensor)
        return
    # Between dtypes it does not: there a strip of columns at a time fits the processor's caches.
    for strip, into in zip(tensor.split(_COLUMNS, -1), parameter.split(_COLUMNS, -1), strict=True):
        into.copy_(strip)


@torch.no_grad()
def fill_(model: Network, family: Family, tensors: Mapping[str, Tensor]) -> None:
    """Copy every weight of `tensors` into `model`; never holds more than one of them beside the model.

    Raises
    ------
    CannotLoad
        Where one is missing, or has a shape that the config does not say.
    """
    missing = dict(model.named_parameters())
    try:
        for name, tensor in family.weights(model.cfg, tensors):
            parameter = missing.pop(name)
            if parameter.shape != tensor.shape:
                raise CannotLoad(
                    f"The weight for {name} is {list(tensor.shape)}, but the config of {model.cfg.model_name} makes it "
                    f"{list(parameter.shape)}."
                )
            _copy(tensor, parameter)
    except KeyError as error:
        raise CannotLoad(f"The weights of {model.cfg.model_name} lack {error}.") from error
    without = [name for name in missing if not name.rsplit(".", 1)[-1].lstrip("_").startswith("b_")]
    if without:
        raise CannotLoad(f"The weights of {model.cfg.model_name} say nothing of {', '.join(without)}.")
