"""From logits to the next token: greedy, or drawn from what penalties, temperature, top_k and top_p leave."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
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
    """Draw the next token, ``[batch]``; with ``temperature=0.0`` take the likeliest.

    The parameters are those of `next_token_probabilities`. Greedy choice heeds `repetition_penalty` alone.

    Examples
    --------
    >>> sample_logits(torch.tensor([[0.0, 3.0, 1.0], [2.0, 0.0, 0.0]]), temperature=0.0)
    tensor([1, 0])
    """
    _check(final_logits, top_k, top_p, temperature, freq_penalty, repetition_penalty, tokens)
    if temperature == 0.0:
        return _repeat_less(final_logits, repetition_penalty, tokens).argmax(-1)
    probabilities = next_token_probabilities(
        final_logits, top_k, top_p, temperature, freq_penalty, repetition_penalty, tokens
    )
    return torch.multinomial(probabilities, num_samples=1).squeeze(-1)


def next_token_probabilities(
    final_logits: Tensor,
    top_k: int | None = None,
    top_p: float | None = None,
    temperature: float = 1.0,
    freq_penalty: float = 0.0,
    repetition_penalty: float = 1.0,
    tokens: Tensor | None = None,
) -> Tensor:
    """Return the probabilities that `sample_logits` draws from, ``[batch, d_vocab]``; applied in the order below.

    Parameters
    ----------
    final_logits
        ``[batch, d_vocab]``, or ``[d_vocab]``.
    repetition_penalty
        Positive logits of tokens that came before are divided by it, negative ones multiplied (CTRL,
        https://arxiv.org/abs/1909.05858); 1 is none.
    temperature
        Logits are divided by it: above 1 more even, below 1 more certain.
    freq_penalty
        Taken from a token's logit once for each time that it came before.
    top_k
        Keep only the k likeliest (all of those that tie with the last of them). Has precedence over `top_p`.
    top_p
        Keep only the likeliest that together reach this probability, in (0, 1] (nucleus sampling,
        https://arxiv.org/abs/1904.09751).
    tokens
        ``[batch, pos]``: what came before, for the penalties.
    """
    _check(final_logits, top_k, top_p, temperature, freq_penalty, repetition_penalty, tokens)
    if temperature == 0.0:
        raise BadInput("temperature=0.0 is greedy: there is one token, not a distribution.")
    logits = _repeat_less(final_logits.float(), repetition_penalty, tokens) / temperature
    if freq_penalty and tokens is not None:
        logits = logits - freq_penalty * _counts(tokens, logits)
    if top_k is not None:
        least = logits.topk(min(top_k, logits.shape[-1]), dim=-1).values[..., -1:]
        logits = logits.masked_fill(logits < least, -math.inf)
    elif top_p is not None:
        in_order, order = logits.sort(dim=-1, descending=True)
        reached = in_order.softmax(-1).cumsum(-1)
        reached_before = F.pad(reached[..., :-1], (1, 0))
        excess = torch.zeros_like(reached, dtype=torch.bool).scatter(-1, order, reached_before > top_p)
        logits = logits.masked_fill(excess, -math.inf)
    return logits.softmax(-1)


def check_sampling(top_k: int | None, top_p: float | None, temperature: float, freq_penalty: float) -> None:
    """Raise where no token could be drawn so."""
    if top_k is not None and top_k < 1:
        raise BadInput(f"top_k is at least 1, not {top_k}; None keeps all tokens.")
    if top_p is not None and not 0.0 < top_p <= 1.0:
        raise BadInput(f"top_p is in (0, 1], not {top_p}; None keeps all tokens.")
    if temperature < 0:
        raise BadInput(f"temperature is 0 (greedy) or more, not {temperature}.")
    if freq_penalty < 0:
        raise BadInput(f"freq_penalty is 0 (none) or more, not {freq_penalty}.")


def _check(
    logits: Tensor,
    top_k: int | None,
    top_p: float | None,
    temperature: float,
    freq_penalty: float,
    repetition_penalty: float,
    tokens: Tensor | None,
) -> None:
    check_sampling(top_k, top_p, temperature, freq_penalty)
    if repetition_penalty <= 0:
        raise BadInput(f"repetition_penalty is above 0 (1 is none), not {repetition_penalty}.")
    if tokens is None:
        if freq_penalty or repetition_penalty != 1.0:
            raise BadInput("A penalty on tokens that came before needs them: pass tokens=.")
    elif tokens.shape[:-1] != logits.shape[:-1]:
        raise BadInput(f"tokens are {list(tokens.shape)}, which does not go with logits {list(logits.shape)}.")


def _counts(tokens: Tensor, logits: Tensor) -> Tensor:
    """How often each token came before, in the shape of `logits`."""
    tokens = tokens.to(logits.device).long()
    return torch.zeros_like(logits).scatter_add(-1, tokens, torch.ones_like(tokens, dtype=logits.dtype))


def _repeat_less(logits: Tensor, penalty: float, tokens: Tensor | None) -> Tensor:
    if penalty == 1.0 or tokens is None:
        return logits
    return torch.where(_counts(tokens, logits) > 0, torch.where(logits > 0, logits / penalty, logits * penalty), logits)
