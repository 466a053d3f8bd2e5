"""Which device a model's parts are on: one, or several in the order of the layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from tl_widgets.config import HookedTransformerConfig, default_device
from tl_widgets.environment import get_best_available_cuda_device
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


def get_device_for_block_index(
    index: int, cfg: HookedTransformerConfig, device: str | torch.device | None = None
) -> torch.device:
    """Where block `index` goes: equal numbers of layers to each device, in order.

    Parameters
    ----------
    device
        The first of the devices, in place of `cfg.device`.

    Examples
    --------
    >>> shape = dict(n_layers=5, d_model=16, n_ctx=32, d_head=4, attn_only=True)
    >>> cfg = HookedTransformerConfig(**shape, device="cuda", n_devices=2)
    >>> [str(get_device_for_block_index(index, cfg)) for index in range(5)]
    ['cuda:0', 'cuda:0', 'cuda:0', 'cuda:1', 'cuda:1']
    """
    device = torch.device(device or cfg.device or "cpu")
    if cfg.n_devices == 1 or device.type == "cpu":
        return device
    first = device.index or 0
    return torch.device(device.type, first + index * cfg.n_devices // cfg.n_layers)


def get_best_available_device(cfg: HookedTransformerConfig) -> torch.device:
    """Return `cfg.device`, or of several CUDA devices the one with most memory to be had."""
    device = torch.device(cfg.device or default_device())
    return get_best_available_cuda_device(cfg.n_devices) if device.type == "cuda" and cfg.n_devices > 1 else device


def move_to_and_update_config(
    model: Any, device_or_dtype: str | torch.device | torch.dtype, print_details: bool = True
) -> Any:
    """Move or cast a model in place, as torch's `Module.to` does, and keep `model.cfg` true; returns it."""
    return _move_(model, print_details, device_or_dtype)


def _move_(model: Any, print_details: bool, *args: Any, **kwargs: Any) -> Any:
    if print_details:
        print("Model to", *args, *(f"{name}={value}" for name, value in kwargs.items()))
    nn.Module.to(model, *args, **kwargs)
    # From here on the model is where its weights are, which need not be where the config had them.
    weights = list(model.parameters())
    model.cfg.dtype = weights[0].dtype
    if len({weight.device for weight in weights}) == 1:
        model.cfg.device, model.cfg.n_devices = str(weights[0].device), 1
    return model


def place_(model: Any) -> None:
    """Move embeddings to the first device, blocks in order, and the final norm and the unembedding to the last."""
    cfg = model.cfg
    first, last = get_device_for_block_index(0, cfg), get_device_for_block_index(cfg.n_layers - 1, cfg)
    for name, child in model.named_children():
        if child is not model.blocks:
            child.to(last if name in ("ln_final", "unembed") else first)
    for i, block in enumerate(model.blocks):
        block.to(get_device_for_block_index(i, cfg))


class DeviceMethods(nn.Module):
    """Moving a model, for a module with `cfg`: it stays true."""

    cfg: HookedTransformerConfig

    def to(self, *args: Any, print_details: bool = False, **kwargs: Any) -> Any:
        """Move or cast the model as torch's `Module.to` does, and keep `cfg.device` and `cfg.dtype` true.

        Parameters
        ----------
        print_details
            Say what is done.
        """
        return _move_(self, print_details, *args, **kwargs)

    def cuda(self, device: int | torch.device | None = None) -> Any:
        """Move to a CUDA device: the current one, or this one."""
        if not torch.cuda.is_available():
            raise BadInput("This machine has no CUDA device that torch can use: model.cpu() stays on the processor.")
        return self.to(torch.device("cuda", torch.cuda.current_device()) if device is None else device)

    def cpu(self) -> Any:
        """Move to the processor."""
        return self.to("cpu")

    def mps(self) -> Any:
        """Move to Apple's GPU."""
        if not torch.backends.mps.is_available():
            raise BadInput("This machine has no MPS device that torch can use: model.cpu() stays on the processor.")
        return self.to("mps")

    def move_model_modules_to_device(self) -> None:
        """Move every part to where `cfg.device` and `cfg.n_devices` say: the layers in order over the devices."""
        check_devices(self.cfg)
        place_(self)
