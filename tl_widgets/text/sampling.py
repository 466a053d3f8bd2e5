"""Choosing the next token from its logits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from tl_widgets.errors import BadInput


def sample_logits(
    final_logits: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    tokens: Tensor | None = None,
) -> Tensor:
    """Draw one token a row; ``[batch]``.

    Parameters
    ----------
    final_logits
        ``[batch, d_vocab]``.
    top_k
        Draw from the `top_k` most likely tokens only. Where it is given, `top_p` is not looked at.
    top_p
        Draw from the smallest set of tokens whose probabilities sum to at least `top_p`, in (0, 1]
        (nucleus sampling, https://arxiv.org/abs/1904.09751).
    temperature
        Logits are divided by it; 0 takes the most likely token whatever else is asked.
    freq_penalty
        Taken from a token's logit (after the temperature) for every time that it is in `tokens`.
    repetition_penalty
        A logit of a token in `tokens` is divided by it where positive, multiplied where negative, before the
        temperature (https://arxiv.org/abs/1909.05858).
    tokens
        ``[batch, pos]``: those so far, for the penalties.

    Examples
    --------
    >>> sample_logits(torch.tensor([[0.0, 3.0, 1.0]]), temperature=0.0)
    tensor([1])
    """
    check_sampling(top_k, top_p, temperature)
    if (freq_penalty or repetition_penalty != 1.0) and tokens is None:
        raise BadInput("freq_penalty and repetition_penalty need the tokens so far: pass tokens=.")
    if temperature == 0.0:
        return final_logits.argmax(dim=-1)
    logits = final_logits.float()
    if repetition_penalty != 1.0 and tokens is not None:
        said = logits.gather(1, tokens)
        said = torch.where(said > 0, said / repetition_penalty, said * repetition_penalty)
        logits = logits.scatter(1, tokens, said)
    logits = logits / temperature
    if freq_penalty and tokens is not None:
        counts = torch.zeros_like(logits).scatter_add_(1, tokens, torch.ones_like(tokens, dtype=logits.dtype))
        logits = logits - freq_penalty * counts
    if top_k is not None:
        logits = _of_the_best(logits, top_k)
    elif top_p is not None:
        logits = _of_the_nucleus(logits, top_p)
    return torch.multinomial(logits.softmax(dim=-1), 1).squeeze(1)


def check_sampling(top_k: int | None, top_p: float | None, temperature: float) -> None:
    """Raise where no token could be drawn so."""
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k is at least 1, not {top_k}; None draws from all tokens.")
    if top_p is not None and not 0 < top_p <= 1:
        raise BadInput(f"top_p is a probability above 0 and at most 1, not {top_p}; None draws from all tokens.")
    if temperature < 0:
        raise BadInput(f"temperature is at least 0 (0: always the most likely token), not {temperature}.")


def _of_the_best(logits: Tensor, top_k: int) -> Tensor:
    worst = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[:, -1:]
    return logits.masked_fill(logits < worst, -math.inf)


def _of_the_nucleus(logits: Tensor, top_p: float) -> Tensor:
    in_order, places = logits.sort(dim=-1, descending=True)
    probabilities = in_order.softmax(dim=-1)
    is_left_out = probabilities.cumsum(dim=-1) - probabilities >= top_p  # what comes before is enough without it
    return logits.masked_fill(is_left_out.gather(1, places.argsort(dim=-1)), -math.inf)
