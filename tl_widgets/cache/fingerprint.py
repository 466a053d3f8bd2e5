"""Whether weights are still what they were, to the last bit."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


def fingerprints(tensors: Iterable[Tensor]) -> list[int]:
    """A number for each tensor, made of every bit of it; one pass over memory.

    Version counters do not see edits through ``.data`` or NumPy; this does.

    Examples
    --------
    >>> weight = torch.randn(4, 5)
    >>> before = fingerprints([weight])
    >>> weight.data[2] *= -1
    >>> fingerprints([weight]) == before
    False
    """
    found = [_fingerprint(tensor) for tensor in tensors]
    by_device: dict[torch.device, list[Tensor]] = {}
    for each in found:
        by_device.setdefault(each.device, []).append(each)
    on_cpu = {device: iter(torch.stack(several).tolist()) for device, several in by_device.items()}
    return [next(on_cpu[each.device]) for each in found]


def _fingerprint(tensor: Tensor) -> Tensor:
    tensor = tensor.detach()
    # In the order of memory, so that a strided weight is not copied.
    in_memory = tensor.permute(sorted(range(tensor.ndim), key=tensor.stride, reverse=True))
    as_bytes = in_memory.contiguous().reshape(-1).view(torch.uint8)
    if as_bytes.storage_offset() % 8:
        as_bytes = as_bytes.clone()
    n_words = as_bytes.numel() // 8
    words = as_bytes[: 8 * n_words].view(torch.int64)
    side = max(1, int(n_words**0.5))
    square, rest = words[: n_words // side * side].view(side, -1), words[n_words // side * side :]
    # Weighted by row: else swapping two heads would not show. Sums wrap around, and lose nothing.
    rows = square.sum(-1) * torch.arange(1, side + 1, device=words.device)
    return rows.sum() + rest.sum() + as_bytes[8 * n_words :].sum() + 31 * tensor.numel() + hash(tensor.dtype) % 97
