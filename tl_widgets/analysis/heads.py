"""What heads attend to: scores of all heads for previous-token, duplicate-token, induction and your own patterns."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from tl_widgets.analysis.head_detector import PATTERNS
from tl_widgets.analysis.subject import cache_of
from tl_widgets.errors import BadInput
from tl_widgets.results import Result, layers_and_heads

KINDS: dict[str, Callable[[Tensor], Tensor]] = {
    name.removesuffix("_head"): pattern for name, pattern in PATTERNS.items()
}

Patterns = Mapping[str, "Tensor | Callable[[Tensor], Tensor]"]


def head_scores(
    model: Any,
    input: Any = None,
    *,
    patterns: Patterns | None = None,
    cache: Any = None,
) -> Result:
    """How much of its attention each head puts where a pattern says, 0 to 1.

    For each query that the pattern gives a key at all, the attention that lies on these keys; averaged over such
    queries, and over a batch.

    Parameters
    ----------
    input
        A prompt, prompts or tokens, as for the model itself; induction shows on text that repeats.
    patterns
        Beside (or, under the same name, in the place of) ``"previous_token"``, ``"duplicate_token"`` and
        ``"induction"``: a tensor ``[query_pos, key_pos]`` of 0 and 1, or a function that returns one of a prompt's
        tokens ``[1, pos]``, which have no padding.
    cache
        Of a run, in the place of `input`.

    Returns
    -------
    Result
        ``[kind, layer, head]``; NaN where no query of the prompt has such a key.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> scores = head_scores(model, [3, 1, 4, 3, 1, 4])
    >>> scores.axes, scores.labels_of("kind")
    (('kind', 'layer', 'head'), ['previous_token', 'duplicate_token', 'induction'])
    >>> 0 < scores["induction", "L1H2"] < 1
    True
    """
    cache = cache_of(model, input, cache)
    tokens = cache.tokens
    if tokens is None:
        raise BadInput("head_scores needs the tokens behind the residual stream: run with tokens=.")
    kinds = {**KINDS, **(patterns or {})}
    n_pos = tokens.shape[1]
    targets = torch.stack([_targets(name, kind, tokens, cache.mask) for name, kind in kinds.items()])
    cfg = model.cfg
    sums = torch.zeros(len(kinds), cfg.n_layers, cfg.n_heads)
    for layer in range(cfg.n_layers):
        attention = cache["pattern", layer]
        attention = attention if cache.has_batch_dim else attention[None]
        if attention.shape[-2:] != (n_pos, n_pos):
            raise BadInput(f"head_scores needs patterns of all {n_pos} positions, not {list(attention.shape[-2:])}.")
        weights = targets.to(attention)
        sums[:, layer] = torch.einsum("bhqk, nbqk -> nh", attention, weights).float().cpu()
    n_queries = targets.any(-1).sum((-2, -1))
    scores = sums / n_queries[:, None, None]
    labels = {"kind": list(kinds)} | layers_and_heads(cfg.n_layers, cfg.n_heads)
    return Result(scores, ("kind", "layer", "head"), labels, "attention on the pattern")


def _targets(name: str, kind: Any, tokens: Tensor, mask: Tensor | None) -> Tensor:
    """``[batch, query_pos, key_pos]``, True where the pattern wants attention; padding wants none."""
    n_pos = tokens.shape[1]
    each = []
    for example, row in enumerate(tokens.cpu()):
        real = torch.arange(n_pos) if mask is None else mask[example].cpu().nonzero()[:, 0]
        # A pattern of tokens is made without padding: a token that pads may be one that prompts have too (BOS).
        pattern, n_own = (kind(row[real][None]), len(real)) if callable(kind) else (kind, n_pos)
        pattern = torch.as_tensor(pattern).cpu() > 0
        if pattern.shape != (n_own, n_own):
            raise BadInput(f"The pattern {name!r} is {list(pattern.shape)}, but the prompt is {n_own} tokens long.")
        targets = torch.zeros(n_pos, n_pos, dtype=torch.bool)
        targets[real[:, None], real] = pattern if callable(kind) else pattern[real[:, None], real]
        each.append(targets)
    return torch.stack(each)


def attention_entropy(model: Any, input: Any = None, *, cache: Any = None) -> Result:
    """How spread out each head's attention is, in nats: 0 for one key, log(n) for n keys alike.

    Parameters
    ----------
    input, cache
        A prompt, prompts or tokens; or the cache of a run.

    Returns
    -------
    Result
        ``[layer, head]``, the mean over queries (of real tokens) and over a batch.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> attention_entropy(model, [3, 1, 4])["L1H2"] < torch.log(torch.tensor(3.0))
    tensor(True)
    """
    cache = cache_of(model, input, cache)
    cfg = model.cfg
    entropies = torch.zeros(cfg.n_layers, cfg.n_heads)
    for layer in range(cfg.n_layers):
        entropy = torch.special.entr(cache["pattern", layer]).sum(-1)  # [(batch,) head (, query_pos)]
        queries = entropy.movedim(int(cache.has_batch_dim), -1).reshape(-1, cfg.n_heads)
        if cache.mask is not None:
            real = cache.positions.apply(cache.mask, dim=1).flatten().bool()
            queries = queries[real.to(queries.device)]
        entropies[layer] = queries.float().mean(0).cpu()
    return Result(entropies, ("layer", "head"), layers_and_heads(cfg.n_layers, cfg.n_heads), "entropy (nats)")
