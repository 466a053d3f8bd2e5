"""From text to tokens and back: BOS and padding by the field's rules, with an explicit mask."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.errors import BadInput, BadType

Message = Mapping[str, str]
"""A turn of a chat: its ``"role"`` and ``"content"``."""

TextInput = str | Sequence[str] | Sequence[Message] | Sequence[Sequence[Message]]
Prompt = TextInput | Tensor | np.ndarray


@dataclass(frozen=True)
class TokenBatch:
    """Tokens ``[batch, pos]`` and which of them are real (None: all)."""

    tokens: Tensor
    mask: Tensor | None = None


class Text:
    """What a model needs of its tokenizer.

    Parameters
    ----------
    tokenizer
        A transformers tokenizer. Where it has no BOS or no padding token, its EOS is set to serve as one.
    n_ctx
        Longer strings are cut to this many tokens, with a warning.
    default_prepend_bos, default_padding_side
        What holds where a call does not say.
    """

    def __init__(
        self, tokenizer: Any, n_ctx: int, default_prepend_bos: bool = True, default_padding_side: str | None = None
    ) -> None:
        if default_padding_side is not None:
            tokenizer.padding_side = _checked_side(default_padding_side)
        if tokenizer.bos_token is None:
            tokenizer.bos_token = tokenizer.eos_token
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token or tokenizer.bos_token
        self.tokenizer = tokenizer
        self.n_ctx = n_ctx
        self.default_prepend_bos = default_prepend_bos

    def encode(
        self,
        text: TextInput,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        truncate: bool = True,
    ) -> TokenBatch:
        """Tokens of one string or several; rows of unequal length are padded and the mask says where.

        BOS comes first where `prepend_bos` (or the default) says so, whatever the tokenizer does itself, and never
        twice. A chat (a list of messages) or several go through the tokenizer's chat template, which also decides
        about BOS unless `prepend_bos` does; after a user's message comes the beginning of the assistant's answer.
        """
        texts: list[Any] = [text] if isinstance(text, str) or _is_chat(text) else list(text)
        if not texts:
            raise BadInput("An empty list holds no prompt: give at least one string.")
        is_chats = all(_is_chat(item) for item in texts)
        if not is_chats and not all(isinstance(item, str) for item in texts):
            raise BadType(
                "Text is a string or a list of strings, or a chat: a list of messages, each "
                f"{{'role': ..., 'content': ...}}; not {text!r}."
            )
        default = False if is_chats else self.default_prepend_bos
        texts = [self._as_written(chat) for chat in texts] if is_chats else texts
        prepend = default if prepend_bos is None else prepend_bos
        rows = [self._row(item, prepend, truncate) for item in texts]
        return self._padded(rows, padding_side)

    def _as_written(self, chat: Sequence[Message]) -> str:
        """Return a chat as the text that the model was trained to read."""
        if not getattr(self.tokenizer, "chat_template", None):
            name = getattr(self.tokenizer, "name_or_path", "") or type(self.tokenizer).__name__
            raise BadInput(
                f"Messages need a chat template, and the tokenizer {name!r} has none: pass the text itself, or set "
                "model.tokenizer.chat_template."
            )
        is_answered = chat[-1].get("role") == "assistant"
        return self.tokenizer.apply_chat_template(list(chat), tokenize=False, add_generation_prompt=not is_answered)

    def _row(self, text: str, prepend_bos: bool, truncate: bool) -> list[int]:
        ids = list(self.tokenizer(text, add_special_tokens=False)["input_ids"])
        bos = self.tokenizer.bos_token_id
        if prepend_bos and bos is not None and ids[:1] != [bos]:
            ids.insert(0, bos)
        if not ids:
            raise BadInput(f"The prompt {text!r} has no tokens. Give some text, or prepend_bos=True to start from BOS.")
        if truncate and len(ids) > self.n_ctx:
            warnings.warn(
                f"A prompt of {len(ids)} tokens is cut to the first {self.n_ctx}, the longest context of this model.",
                stacklevel=4,
            )
            ids = ids[: self.n_ctx]
        return ids

    def _padded(self, rows: list[list[int]], padding_side: str | None) -> TokenBatch:
        longest = max(map(len, rows))
        if all(len(row) == longest for row in rows):
            return TokenBatch(torch.tensor(rows))
        left = _checked_side(padding_side or self.tokenizer.padding_side) == "left"
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_token_id)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(len(row))
            tokens[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return TokenBatch(tokens, mask)

    def mask_of(self, tokens: Tensor, prepend_bos: bool | None = None, padding_side: str | None = None) -> Tensor:
        """``[batch, pos]``, 0 for the run of padding tokens at the padded side; a BOS that looks the same stays."""
        prepend = self.default_prepend_bos if prepend_bos is None else prepend_bos
        return padding_mask(self.tokenizer, tokens, prepend, padding_side)

    def decode(self, tokens: Any) -> str | list[str]:
        """``[pos]`` (or one id) -> a string, ``[batch, pos]`` -> a list of strings."""
        tokens = torch.as_tensor(tokens)
        if tokens.ndim == 2:
            return self.tokenizer.batch_decode(tokens.tolist(), clean_up_tokenization_spaces=False)
        if tokens.ndim > 2:
            raise BadInput(f"Tokens are [pos] or [batch, pos], not {list(tokens.shape)}.")
        return self.tokenizer.decode(tokens.reshape(-1).tolist(), clean_up_tokenization_spaces=False)

    def split(
        self, prompt: Any, prepend_bos: bool | None = None, padding_side: str | None = None
    ) -> list[str] | list[list[str]]:
        """Each token as a string: a string or ``[pos]`` gives a list, several of them a list of lists."""
        if isinstance(prompt, str) or _is_chat(prompt):
            return self._strings(self.encode(prompt, prepend_bos, padding_side).tokens[0])
        if is_text(prompt):
            return [self._strings(self.encode(text, prepend_bos, padding_side).tokens[0]) for text in prompt]
        tokens = torch.as_tensor(prompt)
        if tokens.ndim == 2 and tokens.shape[0] > 1:
            return [self._strings(row) for row in tokens]
        return self._strings(tokens)

    def _strings(self, tokens: Tensor) -> list[str]:
        ids = tokens.reshape(-1).tolist()
        return [self.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]

    def single_token(self, string: str) -> int:
        """Return the id of a string that is exactly one token."""
        ids = self.encode(string, prepend_bos=False, truncate=False).tokens[0].tolist()
        if len(ids) == 1:
            return ids[0]
        spaced = f" {string}"
        is_one = len(self.encode(spaced, prepend_bos=False, truncate=False).tokens[0]) == 1
        hint = f" {spaced!r}, with a leading space, is one token." if is_one else ""
        raise BadInput(f"{string!r} is not one token but {len(ids)}: {self.split(torch.tensor(ids))}.{hint}")


def is_text(input: Any) -> bool:
    """Whether `input` is a string, a chat, or a list of either (and not tokens)."""
    if isinstance(input, str) or _is_chat(input):
        return True
    return isinstance(input, (list, tuple)) and bool(input) and (isinstance(input[0], str) or _is_chat(input[0]))


def _is_chat(input: Any) -> bool:
    return (
        isinstance(input, (list, tuple))
        and bool(input)
        and all(isinstance(message, Mapping) and "role" in message for message in input)
    )


def padding_mask(tokenizer: Any, tokens: Tensor, prepend_bos: bool, padding_side: str | None = None) -> Tensor:
    """``[batch, pos]``, 0 where `tokens` begin (or end) with a run of padding, by the tokenizer's padded side."""
    is_real = tokens != tokenizer.pad_token_id
    if _checked_side(padding_side or tokenizer.padding_side) == "right":
        mask = is_real.long().flip(-1).cumsum(-1).flip(-1) > 0
        if prepend_bos and tokenizer.pad_token_id == tokenizer.bos_token_id:
            mask[:, 0] = True  # a row that is nothing but such tokens begins with its BOS
        return mask.long()
    mask = is_real.long().cumsum(-1) > 0
    if prepend_bos and tokenizer.pad_token_id == tokenizer.bos_token_id:
        # The last of the leading run is the BOS itself.
        last_of_run = (~mask).long().sum(-1) - 1
        rows = torch.arange(len(mask), device=mask.device)[last_of_run >= 0]
        mask[rows, last_of_run[last_of_run >= 0]] = True
    return mask.long()


def _checked_side(side: str) -> str:
    if side not in ("left", "right"):
        raise BadInput(f"padding_side is 'left' or 'right', not {side!r}.")
    return side


def check_tokens(tokens: Any, d_vocab: int, n_ctx: int, device: Any) -> Tensor:
    """Tokens as ``[batch, pos]`` on `device`, or an error that says what is wrong with them."""
    tokens = torch.as_tensor(tokens)
    if tokens.numel() == 0:
        raise BadInput(f"There are no tokens in an input of shape {list(tokens.shape)}.")
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise BadType(
            f"Tokens are whole numbers, but this tensor is {tokens.dtype}. "
            "To continue from a residual stream, pass start_at_layer=."
        )
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.ndim != 2:
        raise BadInput(f"Tokens are [pos] or [batch, pos], not {list(tokens.shape)}.")
    if tokens.shape[1] > n_ctx:
        raise BadInput(f"{tokens.shape[1]} tokens are more than the longest context of this model, {n_ctx}.")
    outside = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if outside.numel():
        raise BadInput(f"Token {outside[0].item()} is outside the vocabulary: ids go from 0 to {d_vocab - 1}.")
    return tokens.to(device)
