"""`Rerun`: what a forward pass was given, so that any stretch of it can be run again as it was."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.cache.fingerprint import fingerprints
from tl_widgets.errors import StaleCache
from tl_widgets.hooks import bare_copy

Stretch = int | str  # a layer's number, "embed" or "final"

# By the first part of an activation's name; blocks go by their number.
_STRETCHES = {
    "hook_tokens": "embed",
    "hook_embed": "embed",
    "hook_pos_embed": "embed",
    "embed": "embed",
    "pos_embed": "embed",
    "ln_final": "final",
    "unembed": "final",
}
# Recorders are put on one copy of the model: one reader at a time.
ONE_AT_A_TIME = threading.RLock()


class Rerun:
    """One forward pass, to be repeated in parts.

    It runs on a copy of the model as it was, over the same weights: hooks, flags and modules of later do not count,
    and nobody who runs the model meanwhile notices. Weights are checked, to the bit, wherever they are used again.

    Parameters
    ----------
    model
        As it is when the pass starts.
    tokens
        ``[batch, pos]``; None where the pass started from a residual stream.
    tokens_mask
        ``[batch, pos]``, 0 for padding; None where all tokens are real.
    past
        The key/value cache that the pass went on from, frozen as it was then.
    layers
        Those that were run.
    to_the_end
        Whether final norm and unembedding came after them.
    """

    def __init__(
        self,
        model: Any,
        tokens: Tensor | None,
        tokens_mask: Tensor | None,
        past: Any,
        layers: range,
        to_the_end: bool,
    ) -> None:
        self.tokens = tokens
        self.tokens_mask = tokens_mask
        self.past = past
        self.layers = layers
        self.to_the_end = to_the_end
        self.unsure: frozenset[Stretch] = frozenset()  # where hooks came and went during the pass
        self._model = model
        self._then = bare_copy(model, cfg=(model.cfg, copy.copy(model.cfg)))
        self._then.setup()
        device_type = next(model.parameters()).device.type
        self._autocast = (device_type, torch.get_autocast_dtype(device_type), torch.is_autocast_enabled(device_type))
        self.weights = {stretch: fingerprints(self._weights(self._then, stretch)) for stretch in self._stretches()}

    def _stretches(self) -> list[Stretch]:
        ends: list[Stretch] = [] if self.tokens is None else ["embed"]
        return [*self.layers, *ends, *(["final"] if self.to_the_end else [])]

    @property
    def keeps_to_itself(self) -> bool:
        """Whether no module edits activations in place."""
        return self._then.keeps_to_itself()

    @property
    def points(self) -> dict[str, Any]:
        """Hook points that can be recorded, by name."""
        return self._then.hook_dict

    def stretch_of(self, name: str) -> Stretch | None:
        """Where in the pass the activation called `name` comes from; None if it came by no stretch that was run."""
        first, _, rest = name.partition(".")
        if first == "blocks":
            number = rest.partition(".")[0]
            return int(number) if number.isdigit() and int(number) in self.layers else None
        stretch = _STRETCHES.get(first)
        was_run = {"embed": self.tokens is not None, "final": self.to_the_end and len(self.layers) > 0}
        return stretch if stretch is not None and was_run[stretch] else None

    def input_of(self, stretch: Stretch) -> str | None:
        """Name of the residual stream that enters `stretch`; None for the embeddings, which read tokens."""
        if stretch == "embed":
            return None
        return f"blocks.{self.layers[-1]}.hook_resid_post" if stretch == "final" else f"blocks.{stretch}.hook_resid_pre"

    def run(
        self,
        stretch: Stretch,
        residual: Tensor | None,
        pos_embed: Tensor | None,
        hooks: Iterable[tuple[str, Callable[..., Any]]],
    ) -> Tensor | None:
        """Run `stretch` from the stored `residual`, with these hooks and no others.

        `pos_embed` is what queries and keys read beside it under shortformer.

        Returns
        -------
        Tensor or None
            The residual stream that leaves it, ``[batch, pos, d_model]``; None for ``"final"``.

        Raises
        ------
        StaleCache
            If weights are not those of the pass.
        """
        self._check_unchanged(stretch)
        model = self._then
        with ONE_AT_A_TIME, torch.no_grad(), torch.autocast(*self._autocast):
            try:
                for name, hook in hooks:
                    model.hook_dict[name].add_hook(hook)
                return self._run(stretch, residual, pos_embed)
            finally:
                model.remove_all_hook_fns()

    def _run(self, stretch: Stretch, residual: Tensor | None, pos_embed: Tensor | None) -> Tensor | None:
        model = self._then
        if stretch == "embed":
            return model.embed_tokens(self.tokens, model.attention_mask(self.tokens, self.tokens_mask, self.past))
        assert residual is not None
        if not isinstance(stretch, int):
            model.to_logits(model.normalize(residual))
            return None
        residual = residual.to(next(model.blocks[stretch].parameters()).device)
        mask = model.attention_mask(residual, self.tokens_mask, self.past)
        if model.cfg.positional_embedding_type == "shortformer" and pos_embed is not None:
            mask.pos_embed = pos_embed.to(residual.device)
        return model.run_blocks(residual, mask, stretch, stretch + 1)

    def for_examples(self, pick: Callable[[Tensor], Tensor]) -> Rerun:
        """Return the same pass of some examples of the batch."""
        other = object.__new__(Rerun)
        other.__dict__ |= self.__dict__
        other.tokens = None if self.tokens is None else pick(self.tokens)
        other.tokens_mask = None if self.tokens_mask is None else pick(self.tokens_mask)
        if self.past is not None and len(self.past.previous_attention_mask) > 1:
            other.past = self.past.for_examples(pick)
        return other

    # Weights

    def _weights(self, model: Any, stretch: Stretch) -> list[Tensor]:
        """What a stretch computes with; of the token embedding, the rows of the pass."""
        modules: list[nn.Module | None]
        if stretch == "embed":
            rows = model.embed.W_E[self.tokens] if hasattr(model.embed, "W_E") else None
            modules = [getattr(model.embed, "ln", None), getattr(model, "pos_embed", None)]
        else:
            rows = None
            # Tables of positions are the model's, and read by every layer.
            tables = [getattr(model, "rotary", None), getattr(model, "rotary_local", None)]
            modules = [model.blocks[stretch], *tables] if isinstance(stretch, int) else [model.ln_final, model.unembed]
        found = [w for module in modules if module is not None for w in (*module.parameters(), *module.buffers())]
        return found if rows is None else [rows, *found]

    def _check_unchanged(self, stretch: Stretch) -> None:
        where = f"layer {stretch}" if isinstance(stretch, int) else f"the {stretch} part"
        if stretch in self.unsure:
            raise StaleCache(
                f"Hooks came or went in {where} while this lazy cache was made, so it cannot be run again as it was. "
                "Attach them before the run, or keep everything: run_with_cache(..., lazy=False)."
            )
        then, now = self._weights(self._then, stretch), self._weights(self._model, stretch)
        # Rows of the token embedding are picked anew each time.
        same = len(then) == len(now) and all(a is b for a, b in zip(then, now, strict=True) if a.is_leaf or b.is_leaf)
        if not same or fingerprints(then) != self.weights[stretch]:
            raise StaleCache(
                f"The weights of {where} have changed since this lazy cache was made, so what they computed "
                "then cannot be recomputed. Run the model again, or keep everything: run_with_cache(..., lazy=False)."
            )


def differs(now: Tensor, then: Tensor, entered: Tensor) -> bool:
    """Whether a residual stream left a block otherwise than it did then, beyond rounding.

    Half precision rounds away small writes to a large stream, so there is nothing to be told from there.
    """
    if now.dtype not in (torch.float32, torch.float64):
        return False
    then, entered = then.to(now.device), entered.to(now.device)
    written = (then - entered).abs().mean()
    return bool((now - then).abs().mean() > 1e-3 * written + 1e-5 * then.abs().mean())
