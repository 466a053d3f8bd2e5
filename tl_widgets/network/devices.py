"""Which device a model's parts are on: one, or several in the order of the layers."""

from __future__ import annotations

from typing import Any

import torch

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput


def check_devices(cfg: HookedTransformerConfig) -> None:
    """Raise where `cfg.n_devices` are not to be had."""
    if cfg.n_devices == 1:
        return
    there = torch.cuda.device_count()
    if not 1 <= cfg.n_devices <= there:
        raise BadInput(f"n_devices={cfg.n_devices}, but this machine has {there} CUDA devices; n_devices=1 uses one.")
    if torch.device(cfg.device or "cuda").type != "cuda":
        raise BadInput(f"n_devices={cfg.n_devices} splits a model over CUDA devices, but device={cfg.device!r}.")


def device_of_block(index: int, cfg: HookedTransformerConfig) -> torch.device:
    """Where block `index` goes: equal numbers of layers to each device, in order.

    Examples
    --------
    >>> shape = dict(n_layers=5, d_model=16, n_ctx=32, d_head=4, attn_only=True)
    >>> cfg = HookedTransformerConfig(**shape, device="cuda", n_devices=2)
    >>> [str(device_of_block(index, cfg)) for index in range(5)]
    ['cuda:0', 'cuda:0', 'cuda:0', 'cuda:1', 'cuda:1']
    """
    device = torch.device(cfg.device or "cpu")
    if cfg.n_devices == 1:
        return device
    first = device.index or 0
    return torch.device(device.type, first + index * cfg.n_devices // cfg.n_layers)


def place_(model: Any) -> None:
    """Move embeddings to the first device, blocks in order, and the final norm and the unembedding to the last."""
    cfg = model.cfg
    first, last = device_of_block(0, cfg), device_of_block(cfg.n_layers - 1, cfg)
    for name, child in model.named_children():
        if child is not model.blocks:
            child.to(last if name in ("ln_final", "unembed") else first)
    for i, block in enumerate(model.blocks):
        block.to(device_of_block(i, cfg))
