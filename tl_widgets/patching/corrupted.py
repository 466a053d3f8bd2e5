"""`CorruptedRun`: the run that patches are put into, kept so that each of them need not run it again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.cache import LazyActivationCache
from tl_widgets.cache.names import get_act_name
from tl_widgets.network.attention import AbstractAttention
from tl_widgets.network.block import TransformerBlock
from tl_widgets.network.masking import AttentionMask

# Masks that are kept for the next layer: a few in long prompts, all in short ones.
_MASK_CELLS = 20_000_000
# Modules of torch's that the package's own are made of.
_CONTAINERS = (nn.ModuleList, nn.Identity, nn.Linear)


class CorruptedRun:
    """One run of the corrupted prompts: its logits, and the residual stream that enters each layer.

    It is made when something of it is read first: plain passes need no more than its tokens.

    Parameters
    ----------
    model
        A `HookedTransformer`, with whatever hooks it has.
    tokens
        ``[batch, pos]`` (or ``[pos]``, or text): the corrupted prompts.
    attention_mask
        ``[batch, pos]``, 0 for padding; by default what the model makes of its padding tokens.
    keep
        Activations that will be patched (``"z"``, ...): kept, where others are recomputed when they are read.

    Attributes
    ----------
    tokens, tokens_mask
        ``[batch, pos]``; the mask is None where all tokens are real.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> run = CorruptedRun(model, [3, 1, 4])
    >>> run.logits.shape, run.cache["z", 1].shape
    (torch.Size([1, 3, 50]), torch.Size([1, 3, 4, 4]))
    """

    def __init__(self, model: Any, tokens: Any, attention_mask: Tensor | None = None, keep: Sequence[str] = ()) -> None:
        self.model = model
        batch = model.read(tokens, attention_mask=attention_mask)
        self.tokens, self.tokens_mask = batch.tokens, batch.mask
        self.keep = tuple(keep)
        # Padding behind the text is seen by nobody, and does not count.
        self._seen = model.attention_mask(self.tokens, self.tokens_mask).tokens_mask
        self._masks: dict[tuple[int, int, int], AttentionMask] = {}

    @classmethod
    def of(cls, model: Any, tokens: Any, keep: Sequence[str] = ()) -> CorruptedRun:
        """Return `tokens` where they are a run already, and run them where they are not."""
        return tokens if isinstance(tokens, CorruptedRun) else cls(model, tokens, keep=keep)

    @property
    def batch(self) -> int:
        """How many prompts there are."""
        return self.tokens.shape[0]

    @property
    def n_pos(self) -> int:
        """How many tokens each has."""
        return self.tokens.shape[1]

    @cached_property
    def cache(self) -> LazyActivationCache:
        """Any activation of the run, which is made when this is read first."""
        model = self.model
        names = {get_act_name(name, i) for name in ("q", "k", "v", *self.keep) for i in range(model.cfg.n_layers)}
        # A lazy cache keeps what has hooks in the run, whatever they do.
        kept = [(name, _look_on) for name in names & model.hook_dict.keys()]
        with torch.no_grad(), model.hooks(kept):
            _, cache = model.run_with_cache(self.tokens, attention_mask=self.real, lazy=True, return_type=None)
        return cache

    @cached_property
    def logits(self) -> Tensor:
        """``[batch, pos, d_vocab]``."""
        with torch.no_grad():
            return self.model.to_logits(self.model.normalize(self.entering(self.model.cfg.n_layers)))

    @property
    def real(self) -> Tensor:
        """``[batch, pos]``, 1 where a token is no padding."""
        return _real(self.tokens, self.tokens_mask).long()

    @property
    def is_causal(self) -> bool:
        """Whether what happens at a position leaves those before it alone."""
        return self.model.cfg.attention_dir == "causal"

    def entering(self, layer: int) -> Tensor:
        """Residual stream that enters `layer`, ``[batch, pos, d_model]``; the number after the last is for its end."""
        n_layers = self.model.cfg.n_layers
        return self.cache["resid_pre", layer] if layer < n_layers else self.cache["resid_post", n_layers - 1]

    def parted_from(self, clean: Mapping[Any, Tensor]) -> int:
        """The first position at which the tokens are not those of the clean run; 0 where that is not known.

        Before it, the two runs of a causal model are the same but for rounding.
        """
        tokens = getattr(clean, "tokens", None)
        if not self.is_causal or tokens is None or tokens.shape != self.tokens.shape:
            return 0
        differs = tokens.to(self.tokens.device) != self.tokens
        differs |= _real(tokens, getattr(clean, "mask", None)).to(differs.device) != _real(
            self.tokens, self.tokens_mask
        )
        differing = differs.any(0).nonzero()
        return int(differing[0]) if len(differing) else self.n_pos

    def mask(self, start: int, stop: int, times: int = 1) -> AttentionMask:
        """Permissions of queries from `start` to `stop` and keys up to `stop`, for the batch so many times."""
        key = (start, stop, 1 if self._seen is None else times)
        if key not in self._masks:
            seen = None if self._seen is None else self._seen[:, :stop].repeat(times, 1)
            if sum((b - a) * b * n for a, b, n in (*self._masks, key)) > _MASK_CELLS:
                self._masks.clear()
            self._masks[key] = AttentionMask(self.model.cfg, stop - start, self.tokens.device, seen, n_past=start)
        return self._masks[key]

    @cached_property
    def pos_embed(self) -> Tensor | None:
        """``[batch or 1, pos, d_model]``, what queries and keys read beside the residual stream under shortformer."""
        if self.model.cfg.positional_embedding_type != "shortformer":
            return None
        with torch.no_grad():
            return self.model.pos_embed(self.tokens, 0, self.mask(0, self.n_pos))


def repeated(x: Tensor, times: int) -> Tensor:
    """``[batch, ...]`` -> ``[times * batch, ...]``."""
    return x if times == 1 else x.expand(times, *x.shape).flatten(0, 1)


def can_be_taken_apart(model: Any) -> bool:
    """Whether blocks may be run part by part, some positions alone, and many patches as one batch.

    That is so where every module is the package's own, unhooked and on one device: then nobody notices. A hook may do
    anything with the whole batch of a whole pass, and so may somebody else's module: there, passes stay whole.
    """
    return (
        model.cfg.n_devices == 1
        and model.keeps_to_itself()
        and all(
            type(module).__module__.startswith("tl_widgets.") or type(module) in _CONTAINERS
            for module in model.modules()
        )
        and all(type(block) is TransformerBlock and isinstance(block.attn, AbstractAttention) for block in model.blocks)
    )


def _real(tokens: Tensor, mask: Tensor | None) -> Tensor:
    """Which tokens are no padding, ``[batch, pos]``."""
    return torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask.bool()


def _look_on(activation: Tensor, hook: Any) -> None:
    """Leave the activation as it is."""
