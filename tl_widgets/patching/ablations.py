"""What is put in the place of an activation that is taken out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_Make = Callable[[Tensor, "Tensor | None"], Tensor]


class Made(Mapping[Any, Tensor]):
    """Activations made from those of a cache, when they are read."""

    def __init__(self, cache: Mapping[Any, Tensor], make: _Make, mask: Tensor | None) -> None:
        self._cache, self._make, self._mask = cache, make, mask

    def __getitem__(self, name: Any) -> Tensor:
        return self._make(self._cache[name], self._mask)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._cache)

    def __len__(self) -> int:
        return len(self._cache)


def _zero(activation: Tensor, mask: Tensor | None) -> Tensor:
    return torch.zeros_like(activation)


def _mean(activation: Tensor, mask: Tensor | None) -> Tensor:
    """Mean over prompts and positions (of real tokens), everywhere."""
    rows = activation.flatten(0, 1) if mask is None else activation[mask.to(activation.device).bool()]
    return rows.mean(0).expand_as(activation)


ABLATIONS = {"zero": _zero, "mean": _mean}
