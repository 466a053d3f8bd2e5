"""``toy-induction``: two layers of attention that learn to go on with what they have seen before.

Sequences of random words that repeat. A head of the first layer learns to look at the previous token, those of the
second to look at what came after the last occurrence of the current one: induction heads (Olsson et al., 2022,
https://arxiv.org/abs/2209.11895).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.toys.recipe import Lesson, Toy
from tl_widgets.toys.words import COMMON_WORDS

# A period as short as the first and as long as the second can come twice within 64 positions.
_PERIODS = (4, 31)


def repeated_words(tokenizer: Any, n_rows: int, n_pos: int, has_prefix: bool = False, seed: int = 0) -> Tensor:
    """BOS, then different random words again and again, with a period of 4 to 31 words.

    Parameters
    ----------
    tokenizer
        Of `word_tokenizer`.
    n_rows, n_pos
        The shape of what is returned; at least 9 positions.
    has_prefix
        Begin most rows with other words, so many that two periods still follow.

    Returns
    -------
    Tensor
        Tokens ``[n_rows, n_pos]``.

    Examples
    --------
    >>> from tl_widgets.toys.words import word_tokenizer
    >>> tokenizer = word_tokenizer(COMMON_WORDS)
    >>> tokenizer.batch_decode(repeated_words(tokenizer, n_rows=1, n_pos=14))
    ['<bos> ...']
    """
    generator = torch.Generator().manual_seed(seed)
    n_words = n_pos - 1
    shortest, longest = _PERIODS
    special = len(tokenizer.all_special_ids)
    words = torch.rand(n_rows, len(tokenizer) - special, generator=generator).argsort(-1)[:, :n_words] + special
    period = torch.randint(shortest, min(longest, n_words // 2) + 1, (n_rows, 1), generator=generator)
    prefix = (torch.rand(n_rows, 1, generator=generator) * (n_words - 2 * period + 1)).long()
    prefix *= has_prefix * (torch.rand(n_rows, 1, generator=generator) < 0.8)
    place = torch.arange(n_words)
    rows = words.gather(1, torch.where(place < prefix, place, prefix + (place - prefix) % period))
    return torch.cat([torch.full((n_rows, 1), tokenizer.bos_token_id), rows], dim=1)


def _with_prefix(tokenizer: Any, n_rows: int, n_pos: int) -> Tensor:
    return repeated_words(tokenizer, n_rows, n_pos, has_prefix=True, seed=1)


TOY = Toy(
    words=COMMON_WORDS,
    shape=dict(n_layers=2, d_model=96, n_heads=4, d_head=32, n_ctx=64, attn_only=True),
    lessons=(
        # Repetition from the start teaches the circuit within 400 steps, but only for what the first words need;
        # behind a prefix the previous-token head has to serve every position.
        Lesson(repeated_words, 64 * 400, dict(num_epochs=1, lr=2e-3, weight_decay=0.01, warmup_steps=100)),
        Lesson(_with_prefix, 64 * 400, dict(num_epochs=2, lr=2e-3, weight_decay=0.01)),
        Lesson(_with_prefix, 64 * 400, dict(num_epochs=1, lr=2e-4, weight_decay=0.01)),
    ),
)
