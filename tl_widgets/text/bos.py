"""The beginning-of-sequence token: put first by a tokenizer or by hand, and taken off again."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.text.tokens import padding_mask


def get_input_with_manually_prepended_bos(bos_token: str | None, input: str | list[str]) -> str | list[str]:
    """A string, or each of a list, with `bos_token` before it; without such a token as it is.

    Examples
    --------
    >>> get_input_with_manually_prepended_bos("<s>", ["Hello", "there"])
    ['<s>Hello', '<s>there']
    """
    bos = bos_token or ""
    return bos + input if isinstance(input, str) else [bos + text for text in input]


def get_tokenizer_with_bos(tokenizer: Any) -> Any:
    """Return a tokenizer that puts BOS first by itself: this one if it does, else a copy that does."""
    bos = tokenizer.bos_token_id
    if bos is None:
        raise BadInput("The tokenizer has no BOS token: set tokenizer.bos_token.")
    if _starts_with(tokenizer, bos):
        return tokenizer
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.add_bos_token = True
    if not _starts_with(tokenizer, bos):
        # A fast tokenizer that has no such switch: what it adds around a text is a template.
        from tokenizers.processors import Sequence, TemplateProcessing

        before = tokenizer.backend_tokenizer.post_processor
        first = f"{tokenizer.bos_token}:0"
        template = TemplateProcessing(
            single=f"{first} $A:0", pair=f"{first} $A:0 $B:1", special_tokens=[(tokenizer.bos_token, bos)]
        )
        tokenizer.backend_tokenizer.post_processor = Sequence([before, template] if before else [template])
    return tokenizer


def _starts_with(tokenizer: Any, token: int) -> bool:
    return tokenizer("a")["input_ids"][:1] == [token]


def get_tokens_with_bos_removed(tokenizer: Any, tokens: Tensor, padding_side: str | None = None) -> Tensor:
    """Tokens ``[batch, pos]`` that start with BOS -> ``[batch, pos - 1]`` without it; padding stays where it is.

    Parameters
    ----------
    padding_side
        Where `tokens` are padded; None is the tokenizer's own.
    """
    if (padding_side or tokenizer.padding_side) == "right":
        return tokens[..., 1:]
    is_bos = torch.zeros_like(tokens, dtype=torch.bool)
    first = padding_mask(tokenizer, tokens, prepend_bos=True, padding_side="left").argmax(-1, keepdim=True)
    is_bos.scatter_(-1, first, True)
    return tokens[~is_bos].view(len(tokens), -1)
