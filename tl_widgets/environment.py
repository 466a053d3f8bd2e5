"""What this machine has: devices and optional libraries."""

from __future__ import annotations

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

import torch


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
