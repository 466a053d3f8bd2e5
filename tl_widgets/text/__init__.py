"""Text: tokenizers and tokens, BOS and padding, key/value caches, generation."""

from tl_widgets.text.kv_cache import (
    HookedTransformerKeyValueCache,
    HookedTransformerKeyValueCacheEntry,
    TransformerLensKeyValueCache,
    TransformerLensKeyValueCacheEntry,
)
from tl_widgets.text.pieces import pieces
from tl_widgets.text.tokens import Prompt, Text, TokenBatch, check_tokens, is_text, padding_mask

__all__ = [
    "HookedTransformerKeyValueCache",
    "HookedTransformerKeyValueCacheEntry",
    "Prompt",
    "Text",
    "TokenBatch",
    "TransformerLensKeyValueCache",
    "TransformerLensKeyValueCacheEntry",
    "check_tokens",
    "is_text",
    "padding_mask",
    "pieces",
]
