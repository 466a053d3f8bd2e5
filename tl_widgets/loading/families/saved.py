"""Our own models, as `save_pretrained` leaves them: config and weights go by our names already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.loading.families.family import Family, Weights

ARCHITECTURE = "HookedTransformer"

# What the one who loads decides, and what random weights start from: not the model's own.
_NOT_KEPT = ("device", "n_devices", "dtype", "seed", "init_weights")


def config_to_save(cfg: HookedTransformerConfig) -> dict[str, Any]:
    """Return what goes into ``config.json``."""
    kept = [field.name for field in fields(cfg) if field.name not in _NOT_KEPT]
    return {"architectures": [ARCHITECTURE]} | {name: getattr(cfg, name) for name in kept}


def config(saved: Mapping[str, Any]) -> dict[str, Any]:
    """Read what `config_to_save` wrote."""
    return {name: value for name, value in saved.items() if name != "architectures"}


def weights(cfg: HookedTransformerConfig, tensors: Mapping[str, Tensor]) -> Weights:
    """Read the weights, one by one."""
    for name in tensors:
        room, *path = name.split(".")
        if room == "blocks" and int(path[0]) >= cfg.n_layers:
            continue
        yield name, tensors[name][: cfg.n_ctx] if name == "pos_embed.W_pos" else tensors[name]


FAMILY = Family(architectures=(ARCHITECTURE,), config=config, weights=weights)
