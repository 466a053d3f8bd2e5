"""`HookedTransformer`: the face of the engine; each method hands on to the room that does it."""

from __future__ import annotations

import inspect
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from tl_widgets.cache import ActivationCache, LazyActivationCache
from tl_widgets.cache.lazy_cache import run_lazily
from tl_widgets.cache.rerun import Rerun
from tl_widgets.calls import select_compatible_kwargs
from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput, BadType
from tl_widgets.loading.pretrained import FromPretrained
from tl_widgets.math import lm_cross_entropy_loss
from tl_widgets.math.tensors import is_transformed
from tl_widgets.network.devices import DeviceMethods, check_devices
from tl_widgets.network.masking import AttentionMask
from tl_widgets.text import HookedTransformerKeyValueCache, Prompt, Text, TokenBatch, check_tokens, is_text
from tl_widgets.text.methods import TextMethods

ReturnType = Literal["logits", "loss", "both"]


class Output(NamedTuple):
    """What ``return_type="both"`` returns."""

    logits: Tensor
    loss: Tensor


class HookedTransformer(TextMethods, DeviceMethods, FromPretrained):
    """A transformer with a hook point on every activation, that reads text or tokens.

    Parameters
    ----------
    cfg
        The shape of the model; weights are random. To load a model see `from_pretrained`.
    tokenizer
        A transformers tokenizer; without one `cfg.d_vocab` must be set and only tokens are accepted.
    default_padding_side
        ``"left"`` or ``"right"``; None keeps the tokenizer's own.

    Examples
    --------
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> model([3, 1, 4]).shape
    torch.Size([1, 3, 50])
    """

    def __init__(
        self,
        cfg: HookedTransformerConfig | dict[str, Any],
        tokenizer: Any = None,
        move_to_device: bool = True,
        default_padding_side: str | None = None,
    ) -> None:
        cfg = HookedTransformerConfig.unwrap(cfg)
        if tokenizer is not None and cfg.d_vocab == -1:
            cfg.d_vocab = len(tokenizer)
            cfg.d_vocab_out = cfg.d_vocab if cfg.d_vocab_out == -1 else cfg.d_vocab_out
        check_devices(cfg)
        super().__init__(cfg)
        if cfg.n_devices > 1 and move_to_device:
            self.move_model_modules_to_device()
        self.text: Text | None = None
        if tokenizer is not None:
            self.set_tokenizer(tokenizer, default_padding_side)

    # Running

    def forward(
        self,
        input: Prompt,
        return_type: ReturnType | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        tokens: Tensor | None = None,
        shortformer_pos_embed: Tensor | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        past_kv_cache: HookedTransformerKeyValueCache | None = None,
    ) -> Any:
        """Run the model.

        Parameters
        ----------
        input
            A string, a list of strings, a chat (a list of ``{"role": ..., "content": ...}``), or tokens ``[batch,
            pos]`` or ``[pos]``; with `start_at_layer`, the residual stream ``[batch, pos, d_model]`` that enters it.
        return_type
            ``"logits"`` ``[batch, pos, d_vocab]``, ``"loss"`` (mean cross-entropy in nats), ``"both"``, or None.
        loss_per_token
            The loss as ``[batch, pos - 1]``.
        prepend_bos, padding_side
            For strings; None is the model's default.
        start_at_layer, stop_at_layer
            First layer to run, and the first not to run (which returns the residual stream entering it); negative
            ones count from the end.
        tokens
            The tokens behind a residual stream `input`, for the loss and for the mask of their padding.
        shortformer_pos_embed
            Accepted for what `input_to_embed` returns in its place: None.
        attention_mask
            ``[batch, pos]``, 0 for padding; by default what the tokenisation of strings says, or the run of padding
            tokens at the padded side.
        past_kv_cache
            What came before `input`: positions go on from there, and the cache grows by `input` unless it is frozen.
            A mask, given or found, is of `input` alone.

        Notes
        -----
        Second derivatives (a gradient's gradient, as in Hessian-vector products) are more than torch's fused attention
        kernels know: run the model under ``torch.nn.attention.sdpa_kernel(SDPBackend.MATH)`` for these.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise BadInput(f"return_type is 'logits', 'loss', 'both' or None, not {return_type!r}.")
        if shortformer_pos_embed is not None:
            raise BadInput(
                "shortformer_pos_embed is None: a shortformer's position embeddings are worked out from the mask."
            )
        start, stop = self._layers(start_at_layer, stop_at_layer)
        tokens_mask = attention_mask
        if start_at_layer is None:
            batch = self.read(input, prepend_bos, padding_side, attention_mask)
            tokens, tokens_mask = batch.tokens, batch.mask
            mask = self.attention_mask(tokens, tokens_mask, past_kv_cache)
            residual = self.embed_tokens(tokens, mask)
        else:
            residual = self._residual_stream(input)
            tokens, tokens_mask = self._tokens_behind(residual, tokens, prepend_bos, padding_side, attention_mask)
            mask = self.attention_mask(residual, tokens_mask, past_kv_cache)
        residual = self.run_blocks(residual, mask, start, stop)
        if past_kv_cache is not None:
            everything = torch.ones(residual.shape[:2], dtype=torch.long, device=residual.device)
            past_kv_cache.append_attention_mask(everything if tokens_mask is None else tokens_mask)
        if stop_at_layer is not None:
            return residual
        normalized = self.normalize(residual)
        if return_type is None:
            return None
        logits = self.to_logits(normalized)
        if return_type == "logits":
            return logits
        if tokens is None:
            raise BadInput("The loss needs the tokens behind the residual stream: pass tokens=.")
        loss = self.loss_fn(logits, tokens, tokens_mask, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def loss_fn(
        self, logits: Tensor, tokens: Tensor, attention_mask: Tensor | None = None, per_token: bool = False
    ) -> Tensor:
        """Cross-entropy of each token given those before it, in nats; see `lm_cross_entropy_loss`."""
        mask = None if attention_mask is None else attention_mask.to(logits.device)
        return lm_cross_entropy_loss(logits, tokens.to(logits.device), mask, per_token)

    def input_to_embed(
        self,
        input: Prompt,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
        past_kv_cache: HookedTransformerKeyValueCache | None = None,
    ) -> tuple[Tensor, Tensor, None, Tensor | None]:
        """Run what comes before the first block; arguments as in `forward`.

        Returns
        -------
        tuple
            What ``forward(residual, start_at_layer=0, tokens=..., attention_mask=...)`` goes on from: the residual
            stream ``[batch, pos, d_model]``, the tokens ``[batch, pos]``, None (the position embeddings of shortformer
            models), and the mask ``[batch, pos]``, or None where there is no padding.
        """
        batch = self.read(input, prepend_bos, padding_side, attention_mask)
        mask = self.attention_mask(batch.tokens, batch.mask, past_kv_cache)
        return self.embed_tokens(batch.tokens, mask), batch.tokens, None, batch.mask

    def get_pos_offset(self, past_kv_cache: HookedTransformerKeyValueCache | None, batch_size: int) -> int:
        """How many positions a cache holds; 0 without one."""
        return 0 if past_kv_cache is None else past_kv_cache.previous_attention_mask.shape[1]

    def get_residual(
        self,
        embed: Tensor,
        pos_offset: int,
        prepend_bos: bool | None = None,
        attention_mask: Tensor | None = None,
        tokens: Tensor | None = None,
        return_shortformer_pos_embed: bool = True,
        device: Any = None,
    ) -> Any:
        """Embedded tokens ``[batch, pos, d_model]`` -> the residual stream that enters the first block.

        Parameters
        ----------
        pos_offset
            How many positions came before.
        attention_mask
            ``[batch, pos_offset + pos]``, 0 for padding; by default that of `tokens` where they are all there is.
        return_shortformer_pos_embed
            Return a pair, whose second part is None: this is no shortformer model.
        """
        if attention_mask is None and tokens is not None and pos_offset == 0:
            attention_mask = self.read(tokens, prepend_bos).mask
        mask = AttentionMask(self.cfg, embed.shape[1], embed.device, attention_mask, pos_offset)
        residual = self.add_positions(embed, mask)
        residual = residual if device is None else residual.to(device)
        return (residual, None) if return_shortformer_pos_embed else residual

    def _layers(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n_layers = self.cfg.n_layers
        for name, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
            if isinstance(layer, bool) or not isinstance(layer, (int, type(None))):
                raise BadType(f"{name} is a whole number, not {layer!r}.")
            if layer is not None and not -n_layers <= layer <= n_layers:
                raise BadInput(f"{name} is -{n_layers} to {n_layers} in a model of {n_layers} layers, not {layer}.")
        first = 0 if start is None else start % n_layers if start < 0 else start
        last = n_layers if stop is None else stop % n_layers if stop < 0 else stop
        return first, last

    def _residual_stream(self, input: Any) -> Tensor:
        width = self.cfg.d_model
        if not isinstance(input, Tensor) or input.ndim != 3 or input.shape[-1] != width:
            shape = list(input.shape) if isinstance(input, Tensor) else type(input).__name__
            raise BadInput(f"start_at_layer needs a residual stream [batch, pos, {width}], not {shape}.")
        return input

    def _tokens_behind(
        self,
        residual: Tensor,
        tokens: Tensor | None,
        prepend_bos: bool | None,
        padding_side: str | None,
        attention_mask: Tensor | None,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Tokens and mask of a residual stream, as far as they are known."""
        if tokens is None:
            return None, self._mask_that_matters(attention_mask, residual.shape[:2], residual.device)
        batch = self.read(tokens, prepend_bos, padding_side, attention_mask)
        return batch.tokens, batch.mask

    def read(
        self,
        input: Prompt,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
    ) -> TokenBatch:
        """Text or tokens as checked tokens ``[batch, pos]`` on the model's device, with the mask of their padding."""
        device = next(self.parameters()).device  # the embedding is the first, whatever stands in its place
        if is_text(input):
            batch = self._text().encode(input, prepend_bos, padding_side)  # type: ignore[arg-type]  # is_text
            tokens, mask = batch.tokens.to(device), batch.mask
        else:
            tokens, mask = check_tokens(input, self.cfg.d_vocab, self.cfg.n_ctx, device), None
            if self.text is not None and attention_mask is None:
                mask = self.text.mask_of(tokens, prepend_bos, padding_side)
        mask = mask if attention_mask is None else attention_mask
        return TokenBatch(tokens, self._mask_that_matters(mask, tokens.shape, device))

    def _mask_that_matters(self, mask: Any, shape: torch.Size, device: torch.device) -> Tensor | None:
        """Return the mask, or None where all tokens are real (attention without a mask is the fast kind)."""
        if mask is None:
            return None
        mask = torch.as_tensor(mask, device=device)
        mask = mask[None] if mask.ndim == 1 else mask
        if mask.shape != shape:
            raise BadInput(f"attention_mask is {list(mask.shape)}, but the input is {list(shape)}.")
        return None if not is_transformed(mask) and bool((mask == 1).all()) else mask.long()

    # Caching

    def run_with_cache(  # type: ignore[override]  # the cache is an object here
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        lazy: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """Run the model once and keep its activations; see `HookedRootModule.run_with_cache` and `forward`.

        Parameters
        ----------
        return_cache_object
            Whether to return an `ActivationCache` or a plain dict.
        lazy
            Keep only the residual stream that enters each block, and recompute any other activation when it is read
            (`LazyActivationCache`). A dict, a `names_filter` and gradients (`incl_bwd`) keep what they keep.

        Returns
        -------
        tuple
            The output, and the cache.
        """
        for_run = select_compatible_kwargs(kwargs, self.forward)
        options = {name: value for name, value in kwargs.items() if name not in for_run}
        given = inspect.signature(self.forward).bind(*model_args, **for_run).arguments
        reading = {name: given.pop(name, None) for name in ("prepend_bos", "padding_side", "attention_mask")}
        if given.get("start_at_layer") is None:
            batch = self.read(given["input"], **reading)
            tokens: Tensor | None = batch.tokens
            mask = batch.mask
            given["input"] = batch.tokens
        else:
            residual = self._residual_stream(given["input"])
            tokens, mask = self._tokens_behind(residual, given.get("tokens"), **reading)
            given["tokens"] = tokens
        real = torch.ones(given["input"].shape[:2], dtype=torch.long) if mask is None else mask
        given["attention_mask"] = real  # said outright, so that nothing is worked out twice
        # Copies: the caller may fill his tensors anew.
        tokens, mask = (None if given_tensor is None else given_tensor.clone() for given_tensor in (tokens, mask))
        positions = options.get("pos_slice")
        if lazy and return_cache_object and options.get("names_filter") is None and not options.get("incl_bwd"):
            options = {name: value for name, value in options.items() if name not in ("names_filter", "incl_bwd")}
            rerun = self._rerun(given, tokens, mask)
            output, recomputed = run_lazily(self, rerun, given, remove_batch_dim, **options)
            return output, LazyActivationCache(recomputed, self, not remove_batch_dim, tokens, mask, positions)
        output, cache_dict = super().run_with_cache(**given, remove_batch_dim=remove_batch_dim, **options)
        if not return_cache_object:
            return output, cache_dict
        return output, ActivationCache(cache_dict, self, not remove_batch_dim, tokens, mask, positions)

    def _rerun(self, given: dict[str, Any], tokens: Tensor | None, mask: Tensor | None) -> Rerun:
        start, stop = given.get("start_at_layer"), given.get("stop_at_layer")
        past = given.get("past_kv_cache")
        return Rerun(
            self,
            tokens if start is None else None,
            mask,
            None if past is None else past.snapshot(),
            range(*self._layers(start, stop)),
            to_the_end=stop is None,
        )
