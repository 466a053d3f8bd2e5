"""`FactoredMatrix`: a product of two thin matrices, worked with and never formed."""

from __future__ import annotations

from functools import cached_property
from numbers import Number
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType, IndexOutside


class FactoredMatrix:
    """Stands for ``A @ B`` where the inner dimension is small, such as a head's QK or OV circuit.

    A head's OV is ``[d_model, d_model]`` but of rank d_head: all that is asked of it here is worked out from the two
    factors, at a fraction of the time and memory.

    Parameters
    ----------
    A
        ``[..., ldim, mdim]``.
    B
        ``[..., mdim, rdim]``. Leading dimensions broadcast.

    Attributes
    ----------
    shape, ndim
        Those of the product, ``[..., ldim, rdim]``.
    ldim, mdim, rdim
        Rows, inner dimension, columns.

    Examples
    --------
    >>> A, B = torch.ones(12, 64, 4), torch.ones(12, 4, 64)
    >>> OV = FactoredMatrix(A, B)
    >>> OV
    FactoredMatrix: Shape(torch.Size([12, 64, 64])), Hidden Dim(4)
    >>> OV[3, :, 7].shape, OV.norm().shape, (OV @ OV).mdim
    (torch.Size([64, 1]), torch.Size([12]), 4)
    """

    # Numpy scalars on the left would otherwise try to make an array of this.
    __array_ufunc__ = None

    def __init__(self, A: Tensor, B: Tensor) -> None:
        for name, factor in (("A", A), ("B", B)):
            if not isinstance(factor, Tensor):
                raise BadType(f"{name} is a tensor, not {type(factor).__name__}.")
            if factor.ndim < 2:
                raise BadInput(f"{name} is a matrix [..., rows, columns], not {list(factor.shape)}.")
        if not _fit(A.shape, B.shape):
            raise _misfit("A", A.shape, "B", B.shape)
        leading = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2])
        self.A = A.expand(*leading, *A.shape[-2:])
        self.B = B.expand(*leading, *B.shape[-2:])
        self.ldim, self.mdim, self.rdim = A.shape[-2], A.shape[-1], B.shape[-1]
        self.shape = torch.Size([*leading, self.ldim, self.rdim])

    def __repr__(self) -> str:
        return f"FactoredMatrix: Shape({self.shape}), Hidden Dim({self.mdim})"

    @property
    def ndim(self) -> int:
        """Number of dimensions of the product."""
        return len(self.shape)

    @property
    def has_leading_dims(self) -> bool:
        """Whether this is several matrices."""
        return self.ndim > 2

    @property
    def pair(self) -> tuple[Tensor, Tensor]:
        """``(A, B)``."""
        return self.A, self.B

    @property
    def AB(self) -> Tensor:
        """The product itself, ``[..., ldim, rdim]``."""
        return self.A @ self.B

    @property
    def BA(self) -> Tensor:
        """``B @ A``, ``[..., mdim, mdim]``, of a square product."""
        if self.ldim != self.rdim:
            raise BadInput(
                f"BA and eigenvalues are of square matrices, but this is {list(self.shape)}. "
                "Singular values (.S) are of any."
            )
        return self.B @ self.A

    @property
    def T(self) -> FactoredMatrix:
        """The transpose, of the last two dimensions."""
        return FactoredMatrix(self.B.transpose(-2, -1), self.A.transpose(-2, -1))

    # Arithmetic

    def __matmul__(self, other: Tensor | FactoredMatrix) -> Any:
        """Apply to a vector (a tensor ``[..., ldim]``), or to a matrix or a `FactoredMatrix` (a `FactoredMatrix`)."""
        if isinstance(other, FactoredMatrix):
            if not _fit(self.shape, other.shape):
                raise _misfit("the left", self.shape, "the right", other.shape, transposed=".T")
            inner = self.B @ other.A
            if self.mdim > other.mdim:
                return FactoredMatrix(self.A @ inner, other.B)
            return FactoredMatrix(self.A, inner @ other.B)
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim < 2:
            self._check_vector(other, self.rdim)
            return (self.A @ (self.B @ other)[..., None])[..., 0]
        if not _fit(self.shape, other.shape):
            raise _misfit("the left", self.shape, "the right", other.shape)
        return FactoredMatrix(self.A, self.B @ other)

    def __rmatmul__(self, other: Tensor) -> Any:
        """``vector @ self``, a tensor ``[..., rdim]``; ``matrix @ self``, a `FactoredMatrix`."""
        if not isinstance(other, Tensor):
            return NotImplemented
        if other.ndim < 2:
            self._check_vector(other, self.ldim)
            return ((other @ self.A)[..., None, :] @ self.B)[..., 0, :]
        if not _fit(other.shape, self.shape):
            raise _misfit("the left", other.shape, "the right", self.shape)
        return FactoredMatrix(other @ self.A, self.B)

    def _check_vector(self, vector: Tensor, length: int) -> None:
        if vector.ndim == 0:
            raise BadInput("@ takes a matrix or a vector; to scale by a number use *.")
        if len(vector) != length:
            raise BadInput(f"A vector of length {len(vector)} does not meet {list(self.shape)}, which needs {length}.")

    def __mul__(self, scalar: Any) -> FactoredMatrix:
        """Scale by a number, or a tensor of one element."""
        if isinstance(scalar, Tensor):
            if scalar.numel() != 1:
                raise BadInput(f"* scales by one number, not by {list(scalar.shape)}. For a matrix product use @.")
            scalar = scalar.reshape(())
        elif not isinstance(scalar, Number):
            return NotImplemented
        return FactoredMatrix(self.A * scalar, self.B)

    def __rmul__(self, scalar: Any) -> FactoredMatrix:
        """``scalar * self``."""
        return self * scalar

    # Picking

    def __getitem__(self, idx: Any) -> FactoredMatrix:
        """Pick as from the product; an int for a row or column keeps the dimension, so that this stays a matrix.

        Lists of rows and of columns are independent of each other: ``[..., [0, 1], [0, 1]]`` is two by two.
        """
        leading, row, column = self._split(idx)
        A, B = (self.A[leading], self.B[leading]) if leading else (self.A, self.B)
        return FactoredMatrix(A[..., _kept(row, self.ldim), :], B[..., _kept(column, self.rdim)])

    def _split(self, idx: Any) -> tuple[tuple, Any, Any]:
        """Pickers of the leading dimensions, of rows and of columns."""
        picks = list(idx) if isinstance(idx, tuple) else [idx]
        n_picked = sum(map(_n_dims, picks))
        if n_picked > self.ndim:
            raise IndexOutside(f"{n_picked} indices are too many for a FactoredMatrix of shape {list(self.shape)}.")
        rest = [slice(None)] * (self.ndim - n_picked)
        gaps = [i for i, pick in enumerate(picks) if isinstance(pick, EllipsisType)]
        gap = gaps[0] if gaps else len(picks)
        picks = picks[:gap] + rest + picks[gap + 1 :]
        if any(pick is None or _n_dims(pick) != 1 for pick in picks[-2:]):
            raise BadInput(
                "Rows and columns are picked by an int, a slice or a list; see unsqueeze() for new dimensions."
            )
        return tuple(picks[:-2]), picks[-2], picks[-1]

    def get_corner(self, k: int = 3) -> Tensor:
        """The first `k` of every dimension of the product, as a tensor."""
        return self[(slice(k),) * self.ndim].AB

    def unsqueeze(self, k: int) -> FactoredMatrix:
        """Insert a leading dimension at `k`, as `Tensor.unsqueeze` does."""
        if k >= self.ndim - 1 or k in (-1, -2):
            raise BadInput(f"unsqueeze({k}) would part the rows from the columns of {list(self.shape)}.")
        return FactoredMatrix(self.A.unsqueeze(k), self.B.unsqueeze(k))

    # Decompositions

    @cached_property
    def _svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Through the factors' QR: what is left to decompose is mdim by mdim."""
        dtype = self.A.dtype
        Q_l, R_l = torch.linalg.qr(_precise(self.A))
        Q_r, R_r = torch.linalg.qr(_precise(self.B).transpose(-2, -1))
        U, S, Vh = torch.linalg.svd(R_l @ R_r.transpose(-2, -1), full_matrices=False)
        return (Q_l @ U).to(dtype), S.to(dtype), (Q_r @ Vh.transpose(-2, -1)).to(dtype)

    def svd(self) -> tuple[Tensor, Tensor, Tensor]:
        """Singular value decomposition, worked out once: ``AB = U @ diag(S) @ V.transpose(-2, -1)``.

        Returns
        -------
        tuple
            `U` ``[..., ldim, k]``, `S` ``[..., k]`` (descending) and `V` ``[..., rdim, k]``, where k is mdim (or the
            smallest of the three dimensions). The field calls the third one `Vh`, though its *columns* are the
            singular vectors.
        """
        return self._svd

    @property
    def U(self) -> Tensor:
        """Left singular vectors as columns, ``[..., ldim, mdim]``."""
        return self._svd[0]

    @property
    def S(self) -> Tensor:
        """Singular values, descending, ``[..., mdim]``."""
        return self._svd[1]

    @property
    def V(self) -> Tensor:
        """Right singular vectors as columns, ``[..., rdim, mdim]``."""
        return self._svd[2]

    @property
    def Vh(self) -> Tensor:
        """The field's name for `V`: right singular vectors as columns, ``[..., rdim, mdim]``."""
        return self._svd[2]

    @property
    def eigenvalues(self) -> Tensor:
        """Complex ``[..., mdim]``, of a square product: those of ``BA``, the others are zero."""
        return torch.linalg.eigvals(_precise(self.BA))

    def norm(self) -> Tensor:
        """Frobenius norm, ``[...]``."""
        return torch.linalg.matrix_norm(self.squeezed_l())

    def squeezed_l(self) -> Tensor:
        """``[..., k, rdim]`` with the same products of columns (``M.T @ M``) as the whole, so with the same norm."""
        R = torch.linalg.qr(_precise(self.A))[1].to(self.A.dtype)
        return R @ self.B

    def make_even(self) -> FactoredMatrix:
        """The same product with the singular values shared evenly: ``A = U sqrt(S)``, ``B = sqrt(S) V.T``."""
        root = self.S.sqrt()
        return FactoredMatrix(self.U * root[..., None, :], root[..., :, None] * self.V.transpose(-2, -1))

    def collapse_l(self) -> Tensor:
        """``S V.T``, ``[..., mdim, rdim]``: the whole but for a rotation on the left."""
        return self.S[..., :, None] * self.V.transpose(-2, -1)

    def collapse_r(self) -> Tensor:
        """``U S``, ``[..., ldim, mdim]``: the whole but for a rotation on the right."""
        return self.U * self.S[..., None, :]


def _precise(x: Tensor) -> Tensor:
    """Single precision at least: torch decomposes nothing in half precision."""
    return x.float() if x.dtype in (torch.float16, torch.bfloat16) else x


def _n_dims(pick: Any) -> int:
    """How many dimensions one part of an index takes up."""
    if pick is None or isinstance(pick, EllipsisType):
        return 0
    is_mask = isinstance(pick, (Tensor, np.ndarray)) and pick.dtype in (torch.bool, np.bool_)
    return pick.ndim if is_mask else 1


def _kept(pick: Any, length: int) -> Any:
    """A picker of rows or columns; an int becomes a slice of one."""
    is_one = isinstance(pick, Tensor) and pick.ndim == 0 and pick.dtype != torch.bool
    if not is_one and (isinstance(pick, bool) or not isinstance(pick, (int, np.integer))):
        return pick
    i = int(pick)
    if not -length <= i < length:
        raise IndexOutside(f"Index {i} is outside a dimension of length {length}.")
    return slice(i % length, i % length + 1)


def _fit(left: torch.Size, right: torch.Size) -> bool:
    """Whether a matrix of shape `left` times one of shape `right` is defined."""
    pairs = zip(reversed(left[:-2]), reversed(right[:-2]), strict=False)
    return left[-1] == right[-2] and all(a == b or 1 in (a, b) for a, b in pairs)


def _misfit(
    left_name: str, left: torch.Size, right_name: str, right: torch.Size, transposed: str = ".transpose(-2, -1)"
) -> BadInput:
    """Say which shapes do not meet, and how they would."""
    if left[-1] != right[-2]:
        what = f"The inner dimensions differ, {left[-1]} and {right[-2]}"
    else:
        what = f"The leading dimensions {list(left[:-2])} and {list(right[:-2])} do not broadcast"
    message = f"{what}: {left_name} is {list(left)}, {right_name} is {list(right)}."
    for name, shape, fits in (
        (right_name, right, lambda shape: _fit(left, shape)),
        (left_name, left, lambda shape: _fit(shape, right)),
    ):
        if fits(_swapped(shape)):
            return BadInput(f"{message} {transposed} on {name} would fit.")
        # The slip that everybody makes once: .T of a 3-D tensor reverses all of its dimensions.
        if len(shape) > 2 and fits(_swapped(torch.Size(reversed(shape)))):
            return BadInput(
                f"{message} .T on a {len(shape)}-D tensor reverses all of its dimensions; "
                f"if that is how {name} was made, use .transpose(-2, -1) in its place."
            )
    return BadInput(message)


def _swapped(shape: torch.Size) -> torch.Size:
    return torch.Size([*shape[:-2], shape[-1], shape[-2]])
