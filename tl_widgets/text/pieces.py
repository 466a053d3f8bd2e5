"""Tokens as a reader should see them: the exact text of each, or its bytes where they are no text by themselves."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

_REPLACEMENT = "\ufffd"
_BYTE_FALLBACK = re.compile(r"<0x([0-9A-F]{2})>")
_SENTENCEPIECE_SPACE = "\u2581"


def pieces(tokenizer: Any, ids: Sequence[int]) -> list[str | bytes]:
    """Each token's own text, leading space included; ``bytes`` for a fragment of a character.

    A tokenizer's ``decode`` of one token drops sentencepiece's leading space and shows a fragment as U+FFFD.
    """
    return [_piece(tokenizer, i, raw) for i, raw in zip(ids, tokenizer.convert_ids_to_tokens(list(ids)), strict=True)]


def _piece(tokenizer: Any, token_id: int, raw: str | None) -> str | bytes:
    if raw is None:
        return f"<{token_id}>"
    fallback = _BYTE_FALLBACK.fullmatch(raw)
    if fallback:
        byte = bytes.fromhex(fallback[1])
        return byte.decode() if byte.isascii() else byte
    if raw.startswith(_SENTENCEPIECE_SPACE):
        return raw.replace(_SENTENCEPIECE_SPACE, " ")
    text = tokenizer.decode([token_id], clean_up_tokenization_spaces=False)
    if _REPLACEMENT not in text:
        return text
    table = _byte_of_character()
    return bytes(table[c] for c in raw) if all(c in table for c in raw) else text


@lru_cache(maxsize=1)
def _byte_of_character() -> dict[str, int]:
    """Return the printable stand-ins that byte-level BPE (GPT-2 and most since) uses for the 256 bytes."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}
