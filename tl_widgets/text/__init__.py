"""Text: tokenizers and tokens, BOS and padding."""

from tl_widgets.text.pieces import pieces
from tl_widgets.text.tokens import Prompt, Text, TokenBatch, check_tokens, padding_mask

__all__ = ["Prompt", "Text", "TokenBatch", "check_tokens", "padding_mask", "pieces"]
