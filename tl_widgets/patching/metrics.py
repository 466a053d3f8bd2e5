"""Metrics that say what they read, so that a sweep unembeds nothing else.

Any callable of the logits ``[batch, pos, d_vocab]`` is a metric. These are callables, too, and also know which
positions and tokens they look at, and their value for each example of the batch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType, IndexOutside

# A token or a position for the whole batch, or one for each example.
PerExample = int | Sequence[int] | Tensor


class Metric(ABC):
    """A number for each example, from the logits at some positions; called on logits it is their mean.

    A subclass defines `positions`, `of` and, where it does not need the whole vocabulary, `tokens`.
    """

    @abstractmethod
    def positions(self, batch: int, n_pos: int) -> Tensor:
        """The positions that are read, ``[batch, k]``, counted from the start."""

    def tokens(self, batch: int) -> Tensor | None:
        """The tokens whose logits are read, ``[batch, m]``; None is the whole vocabulary."""
        return None

    @abstractmethod
    def of(self, logits: Tensor) -> Tensor:
        """Values ``[..., batch]`` from logits ``[..., batch, k, m]`` at these positions, of these tokens."""

    def per_example(self, logits: Tensor) -> Tensor:
        """Value for each example, ``[batch]``, from logits ``[batch, pos, d_vocab]``."""
        read = at_positions(logits, self.positions(*logits.shape[:2]).to(logits.device))
        tokens = self.known_tokens(len(logits), logits.shape[-1])
        if tokens is not None:
            read = read.gather(-1, tokens.to(logits.device)[:, None].expand(-1, read.shape[1], -1))
        return self.of(read)

    def known_tokens(self, batch: int, d_vocab: int) -> Tensor | None:
        """`tokens`, or an error where one of them is not in the vocabulary."""
        tokens = self.tokens(batch)
        return None if tokens is None else _known(tokens, d_vocab)

    def __call__(self, logits: Tensor) -> Tensor:
        """Mean over the examples."""
        return self.per_example(logits).mean()


class _AtOnePosition(Metric):
    """What one position of each example predicts.

    Parameters
    ----------
    pos
        Which: one for all examples or one for each; negative ones count from the end.
    """

    def __init__(self, pos: PerExample = -1) -> None:
        self.pos = _as_row("pos", pos)

    def positions(self, batch: int, n_pos: int) -> Tensor:
        """See `Metric.positions`."""
        if not bool(((-n_pos <= self.pos) & (self.pos < n_pos)).all()):
            raise IndexOutside(f"pos={self.pos.tolist()} is outside prompts of {n_pos} tokens.")
        return _for_batch("pos", self.pos % n_pos, batch)[:, None]


class AnswerLogit(_AtOnePosition):
    """The logit of the answer.

    Parameters
    ----------
    answer
        Token id, one for all examples or one for each.
    pos
        Where it is predicted.

    Examples
    --------
    >>> logits = torch.arange(12.0).reshape(1, 3, 4)
    >>> AnswerLogit(2)(logits), AnswerLogit(2, pos=0)(logits)
    (tensor(10.), tensor(2.))
    """

    def __init__(self, answer: PerExample, pos: PerExample = -1) -> None:
        super().__init__(pos)
        self.answer = _as_row("answer", answer)

    def tokens(self, batch: int) -> Tensor | None:
        """See `Metric.tokens`."""
        return _for_batch("answer", self.answer, batch)[:, None]

    def of(self, logits: Tensor) -> Tensor:
        """See `Metric.of`."""
        return logits[..., 0, 0]


class LogitDiff(AnswerLogit):
    """The logit of the answer less that of the wrong answer (Interpretability in the Wild, arXiv:2211.00593).

    Examples
    --------
    >>> LogitDiff(answer=3, wrong=0)(torch.arange(12.0).reshape(1, 3, 4))
    tensor(3.)
    """

    def __init__(self, answer: PerExample, wrong: PerExample, pos: PerExample = -1) -> None:
        super().__init__(answer, pos)
        self.wrong = _as_row("wrong", wrong)

    def tokens(self, batch: int) -> Tensor | None:
        """See `Metric.tokens`."""
        both = [_for_batch(name, getattr(self, name), batch) for name in ("answer", "wrong")]
        return torch.stack(both, dim=-1)

    def of(self, logits: Tensor) -> Tensor:
        """See `Metric.of`."""
        return logits[..., 0, 0] - logits[..., 0, 1]


class AnswerProb(_AtOnePosition):
    """The probability of the answer.

    Examples
    --------
    >>> AnswerProb(answer=3)(torch.zeros(1, 3, 4))
    tensor(0.2500)
    """

    def __init__(self, answer: PerExample, pos: PerExample = -1) -> None:
        super().__init__(pos)
        self.answer = _as_row("answer", answer)

    def of(self, logits: Tensor) -> Tensor:
        """See `Metric.of`."""
        answer = _known(_for_batch("answer", self.answer, logits.shape[-3]), logits.shape[-1]).to(logits.device)
        log_probs = logits[..., 0, :].log_softmax(-1)
        return log_probs.gather(-1, answer[:, None].expand(*log_probs.shape[:-1], 1))[..., 0].exp()


class KLFromClean(_AtOnePosition):
    """How far predictions are from the clean run's, ``KL(clean || patched)`` in nats.

    Parameters
    ----------
    clean_logits
        ``[batch, pos, d_vocab]``, of the clean run.

    Examples
    --------
    >>> clean = torch.arange(12.0).reshape(1, 3, 4)
    >>> KLFromClean(clean)(clean), KLFromClean(clean)(torch.zeros(1, 3, 4))
    (tensor(0.), tensor(0.4388))
    """

    def __init__(self, clean_logits: Tensor, pos: PerExample = -1) -> None:
        super().__init__(pos)
        read = at_positions(clean_logits, self.positions(*clean_logits.shape[:2]).to(clean_logits.device))
        self.clean = read[:, 0].log_softmax(-1)  # [batch, d_vocab]

    def of(self, logits: Tensor) -> Tensor:
        """See `Metric.of`."""
        clean = self.clean.to(logits.device)
        return (clean.exp() * (clean - logits[..., 0, :].log_softmax(-1))).sum(-1)


class Loss(Metric):
    """Mean cross-entropy of each next token, in nats.

    Parameters
    ----------
    tokens
        ``[batch, pos]`` (or ``[pos]``): what should have been predicted; the corrupted tokens give the usual loss.
    mask
        ``[batch, pos]``, 0 for padding: predictions from or of padding count nothing.

    Examples
    --------
    >>> Loss(torch.tensor([[0, 1, 2]]))(torch.zeros(1, 3, 4))
    tensor(1.3863)
    """

    def __init__(self, tokens: Any, mask: Any = None) -> None:
        tokens = torch.atleast_2d(torch.as_tensor(tokens))
        real = torch.ones_like(tokens).bool() if mask is None else torch.atleast_2d(torch.as_tensor(mask)).bool()
        self.targets = tokens[:, 1:]
        self.counts = real[:, 1:] & real[:, :-1]

    def positions(self, batch: int, n_pos: int) -> Tensor:
        """See `Metric.positions`."""
        if self.targets.shape != (batch, n_pos - 1):
            raise BadInput(
                f"The loss is of tokens {[len(self.targets), self.targets.shape[1] + 1]}, but the run is of "
                f"{[batch, n_pos]}."
            )
        return torch.arange(n_pos - 1).expand(batch, -1)

    def of(self, logits: Tensor) -> Tensor:
        """See `Metric.of`."""
        targets, counts = self.targets.to(logits.device), self.counts.to(logits.device)
        log_probs = logits.log_softmax(-1)
        of_targets = log_probs.gather(-1, targets[..., None].expand(*log_probs.shape[:-1], 1))[..., 0]
        return -(of_targets * counts).sum(-1) / counts.sum(-1)


AnyMetric = Metric | Callable[[Tensor], Any]


def at_positions(x: Tensor, positions: Tensor) -> Tensor:
    """``[..., batch, pos, d]`` at positions ``[batch, k]`` -> ``[..., batch, k, d]``."""
    index = positions[..., None].expand(*x.shape[:-2], positions.shape[1], x.shape[-1])
    return x.gather(-2, index)


def number(value: Any) -> float:
    """What a metric returned, as a number."""
    if isinstance(value, Tensor) and value.numel() != 1:
        raise BadInput(
            f"A metric returns one number, not a tensor of shape {list(value.shape)}: .mean() over the batch?"
        )
    try:
        return float(value)
    except (TypeError, ValueError):
        raise BadType(f"A metric returns one number, not {type(value).__name__}.") from None


def _known(tokens: Tensor, d_vocab: int) -> Tensor:
    unknown = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if len(unknown):
        raise IndexOutside(f"There is no token {int(unknown[0])} in a vocabulary of {d_vocab}.")
    return tokens


def _as_row(name: str, given: PerExample) -> Tensor:
    row = torch.as_tensor(given)
    if row.is_floating_point() or row.dtype == torch.bool or row.ndim > 1:
        raise BadType(f"{name} is a whole number, or one for each example, not {given!r}.")
    return row.long().reshape(-1)


def _for_batch(name: str, row: Tensor, batch: int) -> Tensor:
    if len(row) not in (1, batch):
        raise BadInput(f"{name} has {len(row)} entries for a batch of {batch}: give one, or one for each example.")
    return row.expand(batch)
