"""From text to tokens and back: BOS and padding by the field's rules, with an explicit mask."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput, BadType
from tl_widgets.math.tensors import is_transformed

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
        A transformers tokenizer. Where it has no BOS or no padding token, its EOS serves as one (on a copy: other
        models may share it).
    cfg
        Read at every call: `n_ctx` (longer strings are cut to it, with a warning) and `default_prepend_bos`.
    default_padding_side
        In place of the tokenizer's own.
    """

    def __init__(self, tokenizer: Any, cfg: HookedTransformerConfig, default_padding_side: str | None = None) -> None:
        self.tokenizer = _completed(tokenizer, default_padding_side)
        self.cfg = cfg

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
        default = False if is_chats else self.cfg.default_prepend_bos
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
        n_ctx = self.cfg.n_ctx
        if truncate and len(ids) > n_ctx:
            warnings.warn(
                f"A prompt of {len(ids)} tokens is cut to the first {n_ctx}, the longest context of this model.",
                stacklevel=5,
            )
            ids = ids[:n_ctx]
        return ids

    def _padded(self, rows: list[list[int]], padding_side: str | None) -> TokenBatch:
        longest = max(map(len, rows))
        if all(len(row) == longest for row in rows):
            return TokenBatch(torch.tensor(rows))
        left = _checked_side(padding_side or self.tokenizer.padding_side) == "left"
        # Without a padding token any will do: the mask says what is real.
        tokens = torch.full((len(rows), longest), self.tokenizer.pad_token_id or 0)
        mask = torch.zeros_like(tokens)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(len(row))
            tokens[i, place] = torch.tensor(row)
            mask[i, place] = 1
        return TokenBatch(tokens, mask)

    def mask_of(self, tokens: Tensor, prepend_bos: bool | None = None, padding_side: str | None = None) -> Tensor:
        """``[batch, pos]``, 0 for the run of padding tokens at the padded side; a BOS that looks the same stays."""
        prepend = self.cfg.default_prepend_bos if prepend_bos is None else prepend_bos
        return padding_mask(self.tokenizer, tokens, prepend, padding_side)

    def decode(self, tokens: Any) -> str | list[str]:
        """``[pos]`` (or one id) -> a string, ``[batch, pos]`` -> a list of strings."""
        tokens = torch.as_tensor(tokens)
        if tokens.numel():
            check_in_vocabulary(tokens, len(self.tokenizer))
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
    pad, bos = tokenizer.pad_token_id, tokenizer.bos_token_id
    if pad is None:
        return torch.ones_like(tokens)
    is_real = (tokens != pad).long()
    bos_looks_like_padding = prepend_bos and bos == pad
    if _checked_side(padding_side or tokenizer.padding_side) == "right":
        mask = is_real.flip(-1).cumsum(-1).flip(-1) > 0
        if bos_looks_like_padding:
            mask[:, 0] = True
        return mask.long()
    mask = is_real.cumsum(-1) > 0
    if bos_looks_like_padding:
        # The last of the leading run is the BOS itself.
        last_of_run = (~mask).long().sum(-1) - 1
        rows = torch.arange(len(mask), device=mask.device)[last_of_run >= 0]
        mask[rows, last_of_run[last_of_run >= 0]] = True
    return mask.long()


def _completed(tokenizer: Any, padding_side: str | None) -> Any:
    """Return the tokenizer with a BOS, a padding token and a padded side; a copy where that changes it."""
    wanted = {}
    if padding_side is not None and tokenizer.padding_side != _checked_side(padding_side):
        wanted["padding_side"] = padding_side
    if tokenizer.bos_token is None and tokenizer.eos_token is not None:
        wanted["bos_token"] = tokenizer.eos_token
    if tokenizer.pad_token is None and (tokenizer.eos_token or tokenizer.bos_token):
        wanted["pad_token"] = tokenizer.eos_token or tokenizer.bos_token
    if wanted:
        tokenizer = copy.deepcopy(tokenizer)
        for name, value in wanted.items():
            setattr(tokenizer, name, value)
    return tokenizer


def _checked_side(side: str) -> str:
    if side not in ("left", "right"):
        raise BadInput(f"padding_side is 'left' or 'right', not {side!r}.")
    return side


def check_tokens(tokens: Any, d_vocab: int, n_ctx: int, device: Any) -> Tensor:
    """Tokens as ``[batch, pos]`` on `device`, or an error that says what is wrong with them."""
    try:
        tokens = torch.as_tensor(tokens)
    except (ValueError, TypeError, RuntimeError) as error:
        raise BadInput(f"These are no tokens [pos] or [batch, pos] (rows of one length): {error}") from error
    if tokens.numel() == 0:
        raise BadInput(f"There are no tokens in an input of shape {list(tokens.shape)}.")
    if tokens.dtype == torch.bool or tokens.is_floating_point() or tokens.is_complex():
        raise BadType(
            f"Tokens are whole numbers, but this tensor is {tokens.dtype}. "
            "To continue from a residual stream, pass start_at_layer=."
        )
    tokens = tokens.long()  # token files come in all widths
    if tokens.ndim == 1:
        tokens = tokens[None]
    if tokens.ndim != 2:
        raise BadInput(f"Tokens are [pos] or [batch, pos], not {list(tokens.shape)}.")
    if tokens.shape[1] > n_ctx:
        raise BadInput(f"{tokens.shape[1]} tokens are more than the longest context of this model, {n_ctx}.")
    check_in_vocabulary(tokens, d_vocab)
    return tokens.to(device)


def check_in_vocabulary(tokens: Tensor, d_vocab: int) -> None:
    """Raise if a token id is below 0 or at least `d_vocab`."""
    if torch.compiler.is_compiling() or is_transformed(tokens):
        return  # the embedding has to find out
    outside = tokens[(tokens < 0) | (tokens >= d_vocab)]
    if outside.numel():
        raise BadInput(f"Token {outside[0].item()} is outside the vocabulary: ids go from 0 to {d_vocab - 1}.")
