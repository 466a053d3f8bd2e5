"""What this machine has: devices and optional libraries."""

from __future__ import annotations

import importlib
import importlib.util
import os
import warnings
from pathlib import Path
from types import ModuleType

import torch

from tl_widgets.errors import BadInput


def print_gpu_mem(step_name: str = "") -> None:
    """Print how much memory of the GPU tensors take up, in GiB (0 where there is none)."""
    print(f"{step_name} ~ {round(torch.cuda.memory_allocated() / 2**30, 2)} GiB allocated on GPU.")


def available_memory(device: torch.device) -> int | None:
    """Bytes that could still be allocated on `device`; None where it does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        kept_by_torch = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + kept_by_torch
    if device.type != "cpu":
        return None
    # Linux tells what could be freed for a new allocation, and a container what it may use at most.
    known = [_number(_MEMINFO, after="MemAvailable:", unit=1024), _number(_CONTAINER_LIMIT)]
    return min((n for n in known if n is not None), default=None)


_MEMINFO = Path("/proc/meminfo")
_CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")


def _number(path: Path, after: str = "", unit: int = 1) -> int | None:
    """The number that follows `after` in a file, times `unit`; None if there is no such file or number."""
    try:
        words = path.read_text().split()
    except OSError:
        return None
    place = words.index(after) + 1 if after in words else 0
    return int(words[place]) * unit if words[place:] and words[place].isdigit() else None


def is_library_available(name: str) -> bool:
    """Whether `name` could be imported; nothing is.

    Examples
    --------
    >>> is_library_available("torch"), is_library_available("touch")
    (True, False)
    """
    return importlib.util.find_spec(name) is not None


def library(name: str, needed_by: str) -> ModuleType:
    """Import an optional library, or say how to get it."""
    if not is_library_available(name):
        raise ImportError(f"{needed_by} needs {name}, which is not installed: pip install {name}", name=name)
    return importlib.import_module(name)


def warn_if_mps(device: str | torch.device) -> None:
    """Warn that Apple's GPU may compute wrongly; ``TRANSFORMERLENS_ALLOW_MPS=1`` in the environment is for silence."""
    if torch.device(device).type == "mps" and os.environ.get("TRANSFORMERLENS_ALLOW_MPS") != "1":
        warnings.warn(
            f"On MPS some operations of PyTorch {torch.__version__} give wrong results without an error; compare with "
            "the CPU. TRANSFORMERLENS_ALLOW_MPS=1 silences this warning.",
            stacklevel=2,
        )


def calculate_available_device_cuda_memory(i: int) -> int:
    """Bytes that new tensors may take on CUDA device `i`: what is free, and what torch keeps but does not use."""
    kept = torch.cuda.memory_reserved(i) - torch.cuda.memory_allocated(i)
    return torch.cuda.mem_get_info(i)[0] + kept


def determine_available_memory_for_available_devices(max_devices: int) -> list[tuple[int, int]]:
    """``(device, bytes)`` of the first `max_devices` CUDA devices, or of all if there are fewer."""
    n_devices = min(max_devices, torch.cuda.device_count())
    return [(i, calculate_available_device_cuda_memory(i)) for i in range(n_devices)]


def sort_devices_based_on_available_memory(devices: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """``(device, bytes)`` with most memory first.

    Examples
    --------
    >>> sort_devices_based_on_available_memory([(0, 4), (1, 8)])
    [(1, 8), (0, 4)]
    """
    return sorted(devices, key=lambda device: device[1], reverse=True)


def get_best_available_cuda_device(max_devices: int | None = None) -> torch.device:
    """Return the CUDA device with most memory to be had, among the first `max_devices` or all."""
    if max_devices is None:
        max_devices = torch.cuda.device_count()
    devices = sort_devices_based_on_available_memory(determine_available_memory_for_available_devices(max_devices))
    if not devices:
        raise BadInput("This machine has no CUDA device that torch can use.")
    return torch.device("cuda", devices[0][0])
