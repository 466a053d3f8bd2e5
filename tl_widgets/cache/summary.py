"""One glance at a cache, as text."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tl_widgets.cache.activation_cache import ActivationCache

_LONGEST_PROMPT = 60


def summary(cache: ActivationCache) -> str:
    """Model, tokens, number of activations, memory."""
    cfg = cache.model.cfg
    lines = [
        f"ActivationCache of {cfg.model_name} ({cfg.n_layers} layers x {cfg.n_heads} heads)",
        f"  tokens       {_tokens(cache)}",
        f"  activations  {len(cache)}: {_some_names(list(cache))}",
        f"  memory       {readable_bytes(cache.nbytes)}",
    ]
    return "\n".join(lines)


def _tokens(cache: ActivationCache) -> str:
    if cache.tokens is None:
        return "not known"
    batch, n_pos = cache.tokens.shape
    size = f"{n_pos}" if batch == 1 else f"{batch} x {n_pos}"
    tokenizer = getattr(cache.model, "tokenizer", None)
    if tokenizer is None:
        return size
    text = tokenizer.decode(cache.tokens[0].tolist(), clean_up_tokenization_spaces=False)
    return f"{size}  {_shortened(text)!r}" + (" ..." if batch > 1 else "")


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_PROMPT else f"{text[: _LONGEST_PROMPT - 3]}..."


def _some_names(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f", ..., {names[-1]}" if len(names) > 4 else "")


def readable_bytes(n: float) -> str:
    """``1536`` -> ``"1.5 kB"``."""
    for unit in ("bytes", "kB", "MB"):
        if n < 1000:
            return f"{n:.0f} {unit}" if unit == "bytes" else f"{n:.1f} {unit}"
        n /= 1000
    return f"{n:.1f} GB"
