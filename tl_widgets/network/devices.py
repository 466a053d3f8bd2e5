"""Which device a model's parts are on: one, or several in the order of the layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

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


class DeviceMethods(nn.Module):
    """Moving a model, for a module with `cfg` and `embed`: `cfg` stays true."""

    cfg: HookedTransformerConfig
    embed: Any

    def to(self, *args: Any, print_details: bool = False, **kwargs: Any) -> Any:
        """Move or cast the model as torch's `Module.to` does, and keep `cfg.device` and `cfg.dtype` true.

        Parameters
        ----------
        print_details
            Say what is done.
        """
        if print_details:
            print("Model to", *args, *(f"{name}={value}" for name, value in kwargs.items()))
        super().to(*args, **kwargs)
        # From here on the model is where its weights are, which need not be where the config had them.
        weight = self.embed.W_E
        self.cfg.dtype = weight.dtype
        if len({parameter.device for parameter in self.parameters()}) == 1:
            self.cfg.device, self.cfg.n_devices = str(weight.device), 1
        return self

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
