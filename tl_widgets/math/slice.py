"""`Slice`: one object for the ways in which people pick positions or batch items."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType

SliceInput = int | tuple | list | np.ndarray | Tensor | slice | None


class Slice:
    """Pick along one axis.

    Parameters
    ----------
    input_slice
        ``int``: that one, the axis goes; ``tuple``: ``slice(*tuple)``; list, array or tensor: those; ``None``: all.

    Examples
    --------
    >>> import torch
    >>> x = torch.arange(5)
    >>> Slice((1, 3)).apply(x), Slice([0, -1]).apply(x), Slice(2).apply(x)
    (tensor([1, 2]), tensor([0, 4]), tensor(2))
    """

    slice: Any

    def __init__(self, input_slice: SliceInput = None) -> None:
        if isinstance(input_slice, bool):
            raise BadType("A Slice is an int, a tuple, a list, an array or None, not a bool.")
        if input_slice is None:
            self.mode, self.slice = "identity", slice(None)
        elif isinstance(input_slice, (int, np.integer)):
            self.mode, self.slice = "int", int(input_slice)
        elif isinstance(input_slice, slice):
            self.mode, self.slice = "slice", input_slice
        elif isinstance(input_slice, tuple):
            self.mode, self.slice = "slice", slice(*input_slice)
        elif isinstance(input_slice, (list, np.ndarray, Tensor)):
            self.mode, self.slice = "array", np.asarray(input_slice)
        else:
            raise BadType(
                f"A Slice is an int, a tuple (as in slice(*tuple)), a list, an array or None, not {input_slice!r}."
            )

    def apply(self, tensor: Tensor, dim: int = 0) -> Tensor:
        """Pick from `tensor` along axis `dim`."""
        axis = dim % tensor.ndim
        if self.mode == "int" and not -tensor.shape[axis] <= self.slice < tensor.shape[axis]:
            raise BadInput(f"Index {self.slice} is outside axis {dim} of length {tensor.shape[axis]}.")
        picked = self.slice
        if self.mode == "array":
            picked = torch.as_tensor(picked, device=tensor.device)
        return tensor[(slice(None),) * axis + (picked,)]

    def indices(self, max_ctx: int | None = None) -> np.ndarray | np.int64:
        """Return which of ``range(max_ctx)`` are picked, as an array (an int picks one number)."""
        if self.mode == "int":
            return np.array([self.slice], dtype=np.int64)
        if max_ctx is None:
            raise BadInput("indices() needs max_ctx, the length of the axis, unless the Slice is an int.")
        return np.arange(max_ctx, dtype=np.int64)[self.slice]

    @classmethod
    def unwrap(cls, slice_input: Slice | SliceInput) -> Slice:
        """Return `slice_input` if it is a `Slice`, else a `Slice` of it; an int becomes a list, so the axis stays."""
        if isinstance(slice_input, Slice):
            return slice_input
        if isinstance(slice_input, (int, np.integer)) and not isinstance(slice_input, bool):
            return cls([int(slice_input)])
        return cls(slice_input)

    def as_json(self) -> Any:
        """What `from_json` makes this Slice of again."""
        if isinstance(self.slice, slice):
            ends = (self.slice.start, self.slice.stop, self.slice.step)
            return {"slice": [None if end is None else int(end) for end in ends]}
        return np.asarray(self.slice).tolist()

    @classmethod
    def from_json(cls, picked: Any) -> Slice:
        """Return the Slice that `as_json` told of."""
        return cls(slice(*picked["slice"])) if isinstance(picked, dict) else cls(picked)

    def __repr__(self) -> str:
        return f"Slice: {self.slice} Mode: {self.mode} "
