"""What this machine has: devices and optional libraries."""

from __future__ import annotations

import importlib
import importlib.util
from types import ModuleType

import torch


def print_gpu_mem(step_name: str = "") -> None:
    """Print how much memory of the GPU tensors take up, in GiB (0 where there is none)."""
    print(f"{step_name} ~ {round(torch.cuda.memory_allocated() / 2**30, 2)} GiB allocated on GPU.")


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
