"""What an analysis is of: a cache that is at hand, or a prompt that is run for it."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any

import numpy as np
import torch

from tl_widgets.cache import ActivationCache
from tl_widgets.errors import BadInput, BadType
from tl_widgets.results import token_text


def cache_of(
    model: Any, input: Any, cache: ActivationCache | None, reads: tuple[str, ...] | None = None
) -> ActivationCache:
    """Return `cache`, or one of running `input`.

    It holds what `reads` says, the ends of the names of all that is read; by default it is lazy, for analyses whose
    reading takes more memory than it is worth.

    Raises
    ------
    BadInput
        If neither is given, or both, or the cache of another model.
    BadType
        If `cache` is no `ActivationCache`.
    """
    if (input is None) == (cache is None):
        given = "neither" if input is None else "both"
        raise BadInput(f"Give the prompt as input, or the cache of a run as cache=: {given} is given.")
    if cache is not None:
        if not isinstance(cache, ActivationCache):
            raise BadType(
                f"cache= is the ActivationCache that run_with_cache returns, not a {type(cache).__name__}. "
                "ActivationCache(activations, model) makes one of a dict."
            )
        if cache.model is not model:
            raise BadInput("This cache is of another model: its activations say nothing of this model's weights.")
        return cache
    names_filter = None if reads is None else lambda name: name.endswith(reads)
    with torch.no_grad():
        return model.run_with_cache(input, return_type=None, names_filter=names_filter, lazy=reads is None)[1]


def reads_the_same(model: Any, input: Any, cache: Any) -> bool:
    """Whether `cache` is of a run on `input`.

    Raises
    ------
    BadInput
        If it is not, or does not know its prompt.
    """
    tokens = getattr(cache, "tokens", None)
    if tokens is None or not torch.equal(model.read(input).tokens.cpu(), tokens.cpu()):
        raise BadInput("The prompt given as input is not what the cache is of: give the one or the other, not both.")
    return True


def answer_ids(model: Any, answers: Any) -> tuple[list[int], list[str]]:
    """Token ids of answers, and what they read; each answer is a token's id or the text of one token.

    Raises
    ------
    BadInput
        If a text is not exactly one token, or an id is outside the vocabulary.
    """
    if isinstance(answers, (torch.Tensor, np.ndarray, np.generic)):
        answers = answers.flatten().tolist()
    elif isinstance(answers, (str, int)):
        answers = [answers]
    if not isinstance(answers, Sequence) or not answers:
        raise BadInput(f"answers is a token (text or id) or a list of tokens, not {answers!r}.")
    for answer in answers:
        if isinstance(answer, bool) or not (isinstance(answer, str) or hasattr(answer, "__index__")):
            raise BadType(f"A token is a text or an id, a whole number, not {answer!r}.")
    ids = [model.to_single_token(answer) if isinstance(answer, str) else index(answer) for answer in answers]
    d_vocab = model.cfg.d_vocab_out
    for token in ids:
        if not 0 <= token < d_vocab:
            raise BadInput(f"There is no token {token}: ids go from 0 to {d_vocab - 1}.")
    return ids, [token_text(model, token) for token in ids]
