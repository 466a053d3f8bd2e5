"""Small helpers on tensors, by the field's names."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.math.factored_matrix import FactoredMatrix


def to_numpy(tensor: Any) -> np.ndarray:
    """A tensor (on any device, with or without gradient, bf16 as float32), list, tuple, array or number as an array.

    Examples
    --------
    >>> to_numpy(torch.ones(2, dtype=torch.bfloat16, requires_grad=True))
    array([1., 1.], dtype=float32)
    """
    if isinstance(tensor, Tensor):
        tensor = tensor.detach().cpu()
        return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).numpy()
    if isinstance(tensor, (np.ndarray, np.generic, list, tuple, int, float, bool, str)):
        return np.asarray(tensor)
    raise BadInput(f"to_numpy takes a tensor, an array, a list, a tuple or a number, not {type(tensor).__name__}.")


def get_corner(tensor: Any, n: int = 3) -> Any:
    """The first `n` of every dimension.

    Examples
    --------
    >>> get_corner(torch.arange(9).view(3, 3), 2)
    tensor([[0, 1],
            [3, 4]])
    """
    return tensor[(slice(n),) * tensor.ndim]


def get_matrix_corner(matrix: Tensor | FactoredMatrix, n: int = 3) -> Tensor:
    """The first `n` of every dimension of a matrix, as a tensor; of a `FactoredMatrix` too."""
    return matrix.get_corner(n) if isinstance(matrix, FactoredMatrix) else get_corner(matrix, n)


def is_transformed(tensor: Tensor) -> bool:
    """Whether `torch.func` (vmap, grad, ...) wraps it, so that no branch should depend on its values."""
    return torch._C._functorch.is_functorch_wrapped_tensor(tensor)


def transpose(tensor: Tensor) -> Tensor:
    """``[..., a, b]`` -> ``[..., b, a]``."""
    return tensor.transpose(-2, -1)


def is_square(x: Tensor) -> bool:
    """Whether `x` is one matrix with as many rows as columns."""
    return x.ndim == 2 and x.shape[0] == x.shape[1]


def is_lower_triangular(x: Tensor) -> bool:
    """Whether `x` is a square matrix with nothing above its diagonal."""
    return is_square(x) and bool(x.equal(x.tril()))


def remove_batch_dim(tensor: Tensor) -> Tensor:
    """``[1, ...]`` -> ``[...]``; any other tensor as it is."""
    return tensor[0] if tensor.ndim and tensor.shape[0] == 1 else tensor


def repeat_along_head_dimension(tensor: Tensor, n_heads: int, clone_tensor: bool = True) -> Tensor:
    """``[batch, pos, d_model]`` -> ``[batch, pos, n_heads, d_model]``.

    Parameters
    ----------
    clone_tensor
        Each head gets memory of its own, safe to edit in place; otherwise all heads are one view.
    """
    view = tensor.unsqueeze(2).expand(-1, -1, n_heads, -1)
    return view.clone() if clone_tensor else view


def get_cumsum_along_dim(tensor: Tensor, dim: int, reverse: bool = False) -> Tensor:
    """Cumulative sum along `dim`, from its end with `reverse`.

    Examples
    --------
    >>> get_cumsum_along_dim(torch.tensor([1, 2, 3]), 0, reverse=True)
    tensor([6, 5, 3])
    """
    return tensor.flip(dim).cumsum(dim).flip(dim) if reverse else tensor.cumsum(dim)


def check_structure(t1: Tensor, t2: Tensor, *, verbose: bool = False) -> None:
    """Print whether neighbouring rows, and neighbouring columns, compare alike in two matrices of one shape.

    For tests and debugging: two score matrices may differ in size and agree on what is larger than what.

    Parameters
    ----------
    t1, t2
        ``[rows, columns]``.
    verbose
        Also print each comparison that differs.
    """
    if t1.ndim != 2 or t1.shape != t2.shape:
        raise BadInput(f"check_structure takes two matrices of one shape, not {list(t1.shape)} and {list(t2.shape)}.")
    row_mismatch = _pairs_that_compare_otherwise(t1, t2, "rows", verbose)
    column_mismatch = _pairs_that_compare_otherwise(t1.T, t2.T, "columns", verbose)
    if row_mismatch:
        print(f"row mismatch: {row_mismatch}")
    if column_mismatch:
        print(f"column mismatch: {column_mismatch}")
    if not row_mismatch and not column_mismatch:
        print("PASSED")


def _pairs_that_compare_otherwise(t1: Tensor, t2: Tensor, kind: str, verbose: bool) -> list[int]:
    if verbose:
        print(f"Checking {kind}")
    differing = []
    for i in range(len(t1) - 1):
        first, second = (t1[i] >= t1[i + 1]).tolist(), (t2[i] >= t2[i + 1]).tolist()
        if first != second:
            differing.append(i)
            if verbose:
                print(f"\t{kind} {i}:{i + 1}\n\tt1: {first}\n\tt2: {second}")
    return differing
