"""How well logits predict the tokens that came."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def lm_cross_entropy_loss(
    logits: Tensor, tokens: Tensor, attention_mask: Tensor | None = None, per_token: bool = False
) -> Tensor:
    """Cross-entropy of each token given those before it, in nats.

    Parameters
    ----------
    logits
        ``[batch, pos, d_vocab]``.
    tokens
        ``[batch, pos]``.
    attention_mask
        ``[batch, pos]``, 0 for padding: predictions from or of padding count nothing.
    per_token
        Return ``[batch, pos - 1]`` rather than the mean.

    Examples
    --------
    >>> import torch
    >>> lm_cross_entropy_loss(torch.zeros(1, 3, 4), torch.tensor([[0, 1, 2]]))
    tensor(1.3863)
    """
    losses = F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), tokens[:, 1:].flatten(), reduction="none")
    losses = losses.view(tokens.shape[0], -1)
    counts = torch.ones_like(losses)
    if attention_mask is not None:
        counts = (attention_mask[:, :-1] * attention_mask[:, 1:]).to(losses)
        losses = losses * counts
    if per_token:
        return losses.to(logits.dtype)
    # In float32 up to here: a mean over many tokens in half precision loses digits.
    return (losses.sum() / counts.sum()).to(logits.dtype)


def lm_accuracy(logits: Tensor, tokens: Tensor, per_token: bool = False) -> Tensor:
    """How often the likeliest next token is the one that came.

    Parameters
    ----------
    logits
        ``[batch, pos, d_vocab]``.
    tokens
        ``[batch, pos]``.
    per_token
        Return booleans ``[batch, pos - 1]`` rather than the mean.

    Examples
    --------
    >>> import torch
    >>> lm_accuracy(torch.eye(3)[None], torch.tensor([[2, 0, 0]]))
    tensor(0.5000)
    """
    hits = logits[..., :-1, :].argmax(-1) == tokens[..., 1:]
    return hits if per_token else hits.float().mean()
