"""Transformers models that are spread over devices: where they are, and how to ask for it."""

from __future__ import annotations

from typing import Any

import torch

from tl_widgets.environment import determine_available_memory_for_available_devices
from tl_widgets.errors import BadInput

DeviceMap = str | dict[str, str | int]
MaxMemory = dict[str | int, str | int]

# Parts in these places are fetched by accelerate when they run, and not there to be read.
_OFFLOADED = ("disk", "meta")


def count_unique_devices(hf_model: Any) -> int:
    """Over how many devices transformers spread a model; 1 where it did not.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> count_unique_devices(SimpleNamespace(hf_device_map={"embed": 0, "layers.0": "cuda:0", "layers.1": 1}))
    2
    """
    device_map = getattr(hf_model, "hf_device_map", None)
    if not device_map:
        return 1
    return len({f"cuda:{device}" if isinstance(device, int) else str(device) for device in device_map.values()})


def find_embedding_device(hf_model: Any) -> torch.device | None:
    """Return the device that tokens should go to in a model that transformers spread; None where it did not."""
    if not getattr(hf_model, "hf_device_map", None):
        return None
    return hf_model.get_input_embeddings().weight.device


def resolve_device_map(
    n_devices: int | None,
    device_map: DeviceMap | None,
    device: str | torch.device | None,
    max_memory: MaxMemory | None = None,
) -> tuple[DeviceMap | None, MaxMemory | None]:
    """Return the ``device_map`` and ``max_memory`` that transformers is asked for.

    Parameters
    ----------
    n_devices
        More than one: balanced over the first so many CUDA devices, each as far as its memory goes.
    device_map, max_memory
        As transformers knows them; they go through, and come before `n_devices`.
    device
        One device for all, which goes with no `device_map`.

    Raises
    ------
    BadInput
        For a device and a map at once, devices that are not there, or weights that would not be in memory.
    """
    if device_map is not None:
        if device is not None:
            raise BadInput(f"device={device!r} puts everything in one place, and device_map says where: pass one.")
        if isinstance(device_map, dict):
            # Beside a GPU the processor's memory is such a place too.
            offloaded = _OFFLOADED if set(device_map.values()) <= {"cpu", *_OFFLOADED} else ("cpu", *_OFFLOADED)
            for part, where in device_map.items():
                if where in offloaded:
                    raise BadInput(
                        f"device_map[{part!r}]={where!r} leaves weights where they cannot be read: use GPUs alone, or "
                        "the CPU alone."
                    )
        return device_map, max_memory
    if n_devices is None or n_devices <= 1:
        return None, max_memory
    there = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if n_devices > there:
        raise BadInput(f"n_devices={n_devices}, but this machine has {there} CUDA devices.")
    return "balanced", max_memory or dict(determine_available_memory_for_available_devices(n_devices))
