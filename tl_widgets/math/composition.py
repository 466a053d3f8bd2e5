"""Composition scores: how much of what one circuit writes another one reads."""

from __future__ import annotations

import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType
from tl_widgets.math.factored_matrix import FactoredMatrix


def composition_scores(left: FactoredMatrix, right: FactoredMatrix, broadcast_dims: bool = True) -> Tensor:
    """``|left @ right| / (|left| |right|)`` in Frobenius norms, from 0 to 1.

    Defined in *A Mathematical Framework for Transformer Circuits*
    (https://transformer-circuits.pub/2021/framework/index.html). Unrelated matrices score above 0: a baseline is the
    score of random ones.

    Parameters
    ----------
    left
        ``[..., d_left, d_model]``, such as the OV circuits of earlier heads.
    right
        ``[..., d_model, d_right]``, such as the QK circuits of later ones.
    broadcast_dims
        Score every left one with every right one. Otherwise their leading dimensions are matched by broadcasting.

    Returns
    -------
    Tensor
        ``[*left_leading_dims, *right_leading_dims]``, or the broadcast leading dims.

    Examples
    --------
    >>> left = FactoredMatrix(torch.rand(3, 16, 2), torch.rand(3, 2, 16))
    >>> composition_scores(left, left).shape, composition_scores(left, left, broadcast_dims=False).shape
    (torch.Size([3, 3]), torch.Size([3]))
    """
    for name, matrix in (("left", left), ("right", right)):
        if not isinstance(matrix, FactoredMatrix):
            raise BadType(f"{name} is a FactoredMatrix, not {type(matrix).__name__}: FactoredMatrix(A, B) makes one.")
    if left.rdim != right.ldim:
        hint = " right.T would fit." if left.rdim == right.rdim else ""
        raise BadInput(
            f"left writes {left.rdim} dimensions and right reads {right.ldim}: "
            f"their shapes are {list(left.shape)} and {list(right.shape)}.{hint}"
        )
    # Each side squeezed to the few dimensions that it has, which leaves all three norms as they are.
    writes, reads = left.squeezed_l(), right.T.squeezed_l().transpose(-2, -1)
    left_norms, right_norms = torch.linalg.matrix_norm(writes), torch.linalg.matrix_norm(reads)
    if not broadcast_dims:
        return torch.linalg.matrix_norm(writes @ reads) / (left_norms * right_norms)
    norms = _norms_of_all_products(writes, reads)
    return norms / (left_norms[(..., *(None,) * right_norms.ndim)] * right_norms)


def _norms_of_all_products(left: Tensor, right: Tensor) -> Tensor:
    """Frobenius norms of every one of `left` ``[..., k, d]`` times every one of `right` ``[..., d, k]``."""
    # One left at a time against all the right side by side: a batched product would copy either for each other.
    side_by_side = right.flatten(0, -3).transpose(0, 1).flatten(1) if right.ndim > 2 else right
    norms = [
        torch.linalg.vector_norm((one @ side_by_side).unflatten(-1, (-1, right.shape[-1])), dim=(0, 2))
        for one in left.reshape(-1, *left.shape[-2:])
    ]
    return torch.stack(norms).reshape((*left.shape[:-2], *right.shape[:-2]))
