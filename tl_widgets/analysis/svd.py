"""Singular vectors of weights, read as tokens."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput, IndexOutside, unknown

VECTOR_TYPES = ("OV", "w_in", "w_out")


class SVDInterpreter:
    """Which tokens the singular vectors of a weight matrix stand for (https://www.alignmentforum.org/posts/mkbGjzxD8d8XqKHzA).

    Parameters
    ----------
    model
        A `HookedTransformer`.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> SVDInterpreter(model).get_singular_vectors("OV", layer_index=1, num_vectors=3, head_index=2).shape
    torch.Size([50, 1, 3])
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.cfg = model.cfg

    def get_singular_vectors(
        self, vector_type: str, layer_index: int, num_vectors: int = 10, head_index: int | None = None
    ) -> Tensor:
        """Singular vectors on the side of the residual stream, through the unembedding.

        Parameters
        ----------
        vector_type
            ``"OV"``: what a head writes; ``"w_in"``: what an MLP reads (the gain of its norm included); ``"w_out"``:
            what it writes.
        layer_index
            0 to n_layers - 1.
        num_vectors
            How many, by descending singular value; at most the rank (d_head for a head).
        head_index
            0 to n_heads - 1, for ``"OV"``.

        Returns
        -------
        Tensor
            Logits ``[d_vocab, 1, num_vectors]``. The sign of a singular vector means nothing.
        """
        if vector_type not in VECTOR_TYPES:
            raise unknown("vector_type", vector_type, VECTOR_TYPES)
        _check_index("layer_index", layer_index, self.cfg.n_layers)
        if vector_type == "OV":
            if head_index is None:
                raise BadInput("head_index is needed for 'OV'; it is optional only for 'w_in' and 'w_out'.")
            _check_index("head_index", head_index, self.cfg.n_heads)
        with torch.no_grad():
            vectors = self._vectors(vector_type, layer_index, head_index)  # [d_model, rank]
            if not 0 < num_vectors <= vectors.shape[1]:
                raise IndexOutside(f"num_vectors is 1 to {vectors.shape[1]} for {vector_type!r}, not {num_vectors}.")
            W_U = self.model.W_U
            return (W_U.T @ vectors[:, :num_vectors].to(W_U)).unsqueeze(1)

    def _vectors(self, vector_type: str, layer: int, head: int | None) -> Tensor:
        block = self.model.blocks[layer]
        if vector_type == "OV":
            return block.attn.OV[head].V
        if vector_type == "w_out":
            return _svd(self.model.W_out[layer])[2].T
        gain = getattr(block.ln2, "w", None)
        W_in = self.model.W_in[layer]
        return _svd(W_in if gain is None else gain[:, None] * W_in)[0]


def _svd(matrix: Tensor) -> Any:
    return torch.linalg.svd(matrix.float() if matrix.dtype.itemsize < 4 else matrix, full_matrices=False)


def _check_index(name: str, index: int, n: int) -> None:
    if not 0 <= index < n:
        raise BadInput(f"{name} is 0 to {n - 1}, not {index}.")
