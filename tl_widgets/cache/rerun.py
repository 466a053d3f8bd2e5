"""`Rerun`: what a forward pass was given, so that any stretch of it can be run again as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from tl_widgets.errors import StaleCache

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
# They say which activations are formed: the same ones are formed again, whatever is asked for by then.
_FLAGS = ("use_attn_result", "use_split_qkv_input", "use_attn_in", "use_hook_mlp_in", "use_hook_tokens")


class Rerun:
    """One forward pass, to be repeated in parts.

    Parameters
    ----------
    model
        As it was in that pass; any change of weights, modules or config since is noticed.
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
        self.model = model
        self.tokens = tokens
        self.tokens_mask = tokens_mask
        self.past = past
        self.layers = layers
        self.to_the_end = to_the_end
        self._autocast = _autocast_now(model.embed.W_E.device.type)
        self._config = _what_matters(model.cfg)
        self._flags = {flag: getattr(model.cfg, flag) for flag in _FLAGS}
        self._weights = {stretch: _versions(self._modules(stretch)) for stretch in (*layers, "embed", "final")}

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
        """Run `stretch` from the stored `residual`, with these hooks and none of the model's own.

        `pos_embed` is what queries and keys read beside it under shortformer.

        Returns
        -------
        Tensor or None
            The residual stream that leaves it, ``[batch, pos, d_model]``; None for ``"final"``.

        Raises
        ------
        StaleCache
            If weights or config are not those of the pass.
        """
        self._check_unchanged(stretch)
        model = self.model
        with torch.no_grad(), self._autocast(), self._same_flags(), model.no_hooks():
            for name, hook in hooks:
                model.hook_dict[name].add_hook(hook)
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

    @contextmanager
    def _same_flags(self) -> Iterator[None]:
        cfg = self.model.cfg
        today = {flag: getattr(cfg, flag) for flag in _FLAGS}
        cfg.__dict__ |= self._flags
        try:
            yield
        finally:
            cfg.__dict__ |= today

    def _modules(self, stretch: Stretch) -> list[nn.Module]:
        model = self.model
        if stretch == "embed":
            return [model.embed, getattr(model, "pos_embed", nn.Identity())]
        return [model.ln_final, model.unembed] if stretch == "final" else [model.blocks[stretch]]

    def _check_unchanged(self, stretch: Stretch) -> None:
        if _versions(self._modules(stretch)) != self._weights[stretch]:
            where = f"layer {stretch}" if isinstance(stretch, int) else f"the {stretch} part"
            raise StaleCache(
                f"The weights of {where} have changed since this lazy cache was made, so what they computed "
                "then cannot be recomputed. Run the model again, or keep everything: run_with_cache(..., lazy=False)."
            )
        changed = [name for name, value in _what_matters(self.model.cfg).items() if self._config.get(name) != value]
        if changed:
            raise StaleCache(
                f"The model's cfg.{changed[0]} has changed since this lazy cache was made, so its activations cannot "
                "be recomputed. Set it back, or run the model again."
            )


def differs(now: Tensor, then: Tensor, entered: Tensor) -> bool:
    """Whether a residual stream left a block otherwise than it did then, beyond rounding.

    Edits through ``.data`` escape the weights' version counters, but not this. Half precision rounds away small writes
    to a large stream, so there is nothing to be told from there.
    """
    if now.dtype not in (torch.float32, torch.float64):
        return False
    then, entered = then.to(now.device), entered.to(now.device)
    written = (then - entered).abs().mean()
    return bool((now - then).abs().mean() > 1e-3 * written + 1e-5 * then.abs().mean())


def version_of(tensor: Tensor) -> int:
    """How often `tensor` was edited in place; tensors of ``inference_mode`` do not count, and give 0."""
    return 0 if tensor.is_inference() else tensor._version


def _versions(modules: Iterable[nn.Module]) -> list[tuple[int, int, int]]:
    return [
        (id(weight), weight.data_ptr(), version_of(weight))
        for module in modules
        for weight in (*module.parameters(), *module.buffers())
    ]


def _what_matters(cfg: Any) -> Mapping[str, Any]:
    return {
        name: value
        for name, value in cfg.to_dict().items()
        if name not in _FLAGS and not (isinstance(value, float) and math.isnan(value))
    }


def _autocast_now(device_type: str) -> Callable[[], AbstractContextManager[Any]]:
    if not torch.is_autocast_enabled(device_type):
        return nullcontext
    dtype = torch.get_autocast_dtype(device_type)
    return lambda: torch.autocast(device_type, dtype)
