"""Single tokens: their ids, where they stand in a prompt, and the directions that write them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType


def ids_of(tokens: Any, single_token: Callable[[str], int]) -> Tensor:
    """Ids of a string that is one token, of several such, or of what is ids already; one id alone has no dimension."""
    if isinstance(tokens, str):
        return torch.tensor(single_token(tokens))
    if isinstance(tokens, (list, tuple)) and tokens and all(isinstance(token, str) for token in tokens):
        tokens = [single_token(token) for token in tokens]
    ids = torch.as_tensor(tokens)
    if ids.dtype == torch.bool or ids.is_floating_point() or ids.is_complex():
        raise BadType(f"Tokens are strings or whole numbers, but these are {ids.dtype}.")
    return ids.reshape(()) if ids.numel() == 1 else ids


def position_of(token: int, tokens: Tensor, mode: str = "first") -> int:
    """Where `token` stands in `tokens` ``[1, pos]``: the ``"first"`` or the ``"last"`` place."""
    if mode not in ("first", "last"):
        raise BadInput(f"mode is 'first' or 'last', not {mode!r}.")
    if tokens.shape[0] != 1:
        raise BadInput(f"A position is looked for in one prompt, not in {tokens.shape[0]}.")
    places = (tokens[0] == token).nonzero()[:, 0].tolist()
    if not places:
        raise BadInput(f"Token {token} is not among the prompt's: {tokens[0].tolist()}.")
    return places[0] if mode == "first" else places[-1]


def directions_of(ids: Tensor, W_U: Tensor) -> Tensor:
    """Columns of `W_U` ``[d_model, d_vocab]`` as ``[*shape of ids, d_model]``."""
    d_vocab = W_U.shape[1]
    outside = ids[(ids < 0) | (ids >= d_vocab)]
    if outside.numel():
        raise BadInput(f"Token {outside[0].item()} is outside the vocabulary: ids go from 0 to {d_vocab - 1}.")
    return W_U.T[ids.to(W_U.device)]
