"""How much each head attends as a pattern says: previous-token, duplicate-token and induction heads, or your own."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.names import get_act_name
from tl_widgets.errors import BadInput, BadType, IndexOutside, unknown
from tl_widgets.math.tensors import is_lower_triangular, is_square

Heads = Sequence[tuple[int, int]] | Mapping[int, Sequence[int]]

# What a head that was not asked about scores.
NOT_ASKED = -1.0
_DIGITS = 3


def get_previous_token_head_detection_pattern(tokens: Tensor) -> Tensor:
    """Each token to the one before it: ``[pos, pos]`` of 0 and 1 for tokens ``[1, pos]``.

    Examples
    --------
    >>> get_previous_token_head_detection_pattern(torch.tensor([[7, 8, 9]]))
    tensor([[0., 0., 0.],
            [1., 0., 0.],
            [0., 1., 0.]])
    """
    return torch.diag(torch.ones(tokens.shape[-1] - 1), -1)


def get_duplicate_token_head_detection_pattern(tokens: Tensor) -> Tensor:
    """Each token to its earlier occurrences: ``[pos, pos]`` of 0 and 1 for tokens ``[1, pos]``.

    Examples
    --------
    >>> get_duplicate_token_head_detection_pattern(torch.tensor([[7, 8, 7]]))
    tensor([[0., 0., 0.],
            [0., 0., 0.],
            [1., 0., 0.]])
    """
    ids = tokens.reshape(-1).cpu()
    return (ids[:, None] == ids[None, :]).float().tril(-1)


def get_induction_head_detection_pattern(tokens: Tensor) -> Tensor:
    """Each token to what followed its earlier occurrences: ``[pos, pos]`` of 0 and 1 for tokens ``[1, pos]``.

    Examples
    --------
    >>> get_induction_head_detection_pattern(torch.tensor([[7, 8, 7]]))
    tensor([[0., 0., 0.],
            [0., 0., 0.],
            [0., 1., 0.]])
    """
    return get_duplicate_token_head_detection_pattern(tokens).roll(1, dims=1)


PATTERNS: dict[str, Callable[[Tensor], Tensor]] = {
    "previous_token_head": get_previous_token_head_detection_pattern,
    "duplicate_token_head": get_duplicate_token_head_detection_pattern,
    "induction_head": get_induction_head_detection_pattern,
}
HEAD_NAMES = tuple(PATTERNS)


def get_supported_heads() -> None:
    """Print the names of heads that `detect_head` knows a pattern for."""
    print(f"Supported heads: {HEAD_NAMES}")


def _share_on_pattern(attention: Tensor, pattern: Tensor) -> Tensor:
    return (attention * pattern).sum((-2, -1)) / attention.sum((-2, -1))


def _one_less_difference(attention: Tensor, pattern: Tensor) -> Tensor:
    n_pos = attention.shape[-1]
    return 1 - (n_pos * (attention - pattern).abs().mean((-2, -1))).double().round(decimals=_DIGITS)


ERROR_MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "abs": _one_less_difference,
    "mul": _share_on_pattern,
}


def compute_head_attention_similarity_score(
    attention_pattern: Tensor,
    detection_pattern: Tensor,
    *,
    exclude_bos: bool,
    exclude_current_token: bool,
    error_measure: str,
) -> float:
    """How well one head's attention ``[query_pos, key_pos]`` agrees with a pattern of the same shape.

    Parameters
    ----------
    exclude_bos, exclude_current_token
        Leave out attention to the first position; to the query's own position.
    error_measure
        ``"mul"``: the share of attention that lies on the pattern, 0 to 1 for patterns of 0 and 1. ``"abs"``: 1 less
        the sum of absolute differences in a row, averaged over rows; at most 1, to three digits.
    """
    if not is_square(attention_pattern):
        raise BadInput(f"attention_pattern is one square matrix [pos, pos], not {list(attention_pattern.shape)}.")
    _check(detection_pattern, attention_pattern.shape[-1], error_measure)
    return _scores(attention_pattern, detection_pattern, exclude_bos, exclude_current_token, error_measure).item()


def detect_head(
    model: Any,
    seq: str | list[str],
    detection_pattern: Tensor | str,
    heads: Heads | None = None,
    cache: Any = None,
    *,
    exclude_bos: bool = False,
    exclude_current_token: bool = False,
    error_measure: str = "mul",
) -> Tensor:
    """Score every head by how well its attention agrees with a pattern.

    Parameters
    ----------
    model
        A `HookedTransformer` with a tokenizer.
    seq
        A prompt, or several whose scores are averaged.
    detection_pattern
        ``"previous_token_head"``, ``"duplicate_token_head"``, ``"induction_head"`` (https://arxiv.org/abs/2209.11895),
        or a lower triangular tensor ``[query_pos, key_pos]``.
    heads
        Only these: ``[(layer, head), ...]`` or ``{layer: [head, ...]}``; the others score -1.
    cache
        Of a run of `seq` (one prompt), to score without running the model again.
    exclude_bos, exclude_current_token, error_measure
        See `compute_head_attention_similarity_score`.

    Returns
    -------
    Tensor
        ``[n_layers, n_heads]``.

    Raises
    ------
    BadInput
        For a pattern of another shape, a prompt without tokens or beyond the context, a head that is not there.
    UnknownName
        For an unknown pattern or measure; the nearest name is suggested.
    """
    if isinstance(seq, str):
        return _detect_in_one(
            model, seq, detection_pattern, heads, cache, exclude_bos, exclude_current_token, error_measure
        )
    if cache is not None:
        raise BadInput("A cache is of one prompt: pass one string as seq, or leave cache out.")
    if not isinstance(seq, (list, tuple)) or not all(isinstance(prompt, str) for prompt in seq):
        raise BadType(f"seq is a string or a list of strings, not {seq!r}.")
    if not seq:
        raise BadInput("seq is an empty list: give at least one prompt.")
    each = [
        _detect_in_one(model, one, detection_pattern, heads, None, exclude_bos, exclude_current_token, error_measure)
        for one in seq
    ]
    return torch.stack(each).mean(0)


@torch.no_grad()
def _detect_in_one(
    model: Any,
    prompt: str,
    detection_pattern: Tensor | str,
    heads: Heads | None,
    cache: Any,
    exclude_bos: bool,
    exclude_current_token: bool,
    error_measure: str,
) -> Tensor:
    tokens = model.to_tokens(prompt, truncate=False)
    n_pos, n_ctx = tokens.shape[-1], model.cfg.n_ctx
    if not 1 < n_pos <= n_ctx:
        raise BadInput(f"A prompt of {n_pos} tokens (BOS included): heads are detected in 2 to {n_ctx}.")
    pattern = _pattern_of(detection_pattern, tokens)
    _check(pattern, n_pos, error_measure)
    asked = _by_layer(heads, model.cfg.n_layers, model.cfg.n_heads)
    names = {layer: get_act_name("pattern", layer) for layer in asked}
    if cache is None and asked:
        _, cache = model.run_with_cache(tokens, names_filter=list(names.values()), return_type=None)
    scores = torch.full((model.cfg.n_layers, model.cfg.n_heads), NOT_ASKED)
    for layer, wanted in asked.items():
        attention = _of_one_prompt(cache[names[layer]], n_pos)
        found = _scores(attention, pattern, exclude_bos, exclude_current_token, error_measure)
        scores[layer, wanted] = found[wanted].to(scores)
    return scores


def _pattern_of(detection_pattern: Tensor | str, tokens: Tensor) -> Tensor:
    if isinstance(detection_pattern, Tensor):
        return detection_pattern
    if not isinstance(detection_pattern, str):
        raise BadType(f"detection_pattern is a tensor or one of {HEAD_NAMES}, not {detection_pattern!r}.")
    if detection_pattern not in PATTERNS:
        raise unknown("detection_pattern", detection_pattern, HEAD_NAMES)
    return PATTERNS[detection_pattern](tokens)


def _check(pattern: Tensor, n_pos: int, error_measure: str) -> None:
    if error_measure not in ERROR_MEASURES:
        raise unknown("error_measure", error_measure, ERROR_MEASURES)
    if pattern.shape != (n_pos, n_pos) or not is_lower_triangular(pattern):
        raise BadInput(
            f"The detection pattern is a lower triangular matrix [{n_pos}, {n_pos}], one row a token, not "
            f"{list(pattern.shape)}" + (" with values above its diagonal." if pattern.shape == (n_pos, n_pos) else ".")
        )
    if error_measure == "mul" and not ((pattern == 0) | (pattern == 1)).all():
        warnings.warn("A pattern with values other than 0 and 1: 'mul' is then no share of attention.", stacklevel=4)


def _by_layer(heads: Heads | None, n_layers: int, n_heads: int) -> dict[int, list[int]]:
    if heads is None:
        return {layer: list(range(n_heads)) for layer in range(n_layers)}
    pairs = [(layer, head) for layer, of in heads.items() for head in of] if isinstance(heads, Mapping) else heads
    asked: dict[int, list[int]] = {}
    for layer, head in pairs:
        if not (-n_layers <= layer < n_layers and -n_heads <= head < n_heads):
            raise IndexOutside(f"There is no head ({layer}, {head}) in {n_layers} layers of {n_heads} heads.")
        asked.setdefault(layer % n_layers, []).append(head)
    return asked


def _of_one_prompt(attention: Tensor, n_pos: int) -> Tensor:
    """A cached pattern, with or without a batch dimension of one, as ``[head, query_pos, key_pos]``."""
    attention = attention[0] if attention.ndim == 4 and len(attention) == 1 else attention
    if attention.ndim != 3 or attention.shape[-2:] != (n_pos, n_pos):
        raise BadInput(
            f"The cache's patterns are {list(attention.shape)}, but seq has {n_pos} tokens: give the cache of this run."
        )
    return attention


def _scores(
    attention: Tensor, pattern: Tensor, exclude_bos: bool, exclude_current_token: bool, error_measure: str
) -> Tensor:
    """``[..., pos, pos]`` -> ``[...]``."""
    allowed = torch.ones_like(pattern, dtype=torch.bool)
    if exclude_bos:
        allowed[:, 0] = False
    if exclude_current_token:
        allowed.fill_diagonal_(False)
    # What is left out counts neither as attention nor as missing from the pattern.
    allowed = allowed.to(attention.device)
    return ERROR_MEASURES[error_measure](attention * allowed, pattern.to(attention) * allowed)
