"""`HookedTransformer`: the face of the engine; each method hands on to the room that does it."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from tl_widgets import loading
from tl_widgets.cache import ActivationCache
from tl_widgets.config import HookedTransformerConfig, as_dtype
from tl_widgets.errors import BadInput
from tl_widgets.loading.processing_methods import ProcessingMethods
from tl_widgets.math import lm_cross_entropy_loss
from tl_widgets.text import Prompt, Text, TokenBatch, check_tokens

T = TypeVar("T", bound="HookedTransformer")
ReturnType = Literal["logits", "loss", "both"]


class Output(NamedTuple):
    """What ``return_type="both"`` returns."""

    logits: Tensor
    loss: Tensor


class HookedTransformer(ProcessingMethods):
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
        super().__init__(cfg)
        self.text: Text | None = None
        if tokenizer is not None:
            self.set_tokenizer(tokenizer, default_padding_side)

    # Loading

    @classmethod
    def from_pretrained(
        cls: type[T],
        model_name: str,
        fold_ln: bool = True,
        center_writing_weights: bool = True,
        center_unembed: bool = True,
        fold_value_biases: bool = True,
        refactor_factored_attn_matrices: bool = False,
        hf_model: Any = None,
        device: str | torch.device | None = None,
        tokenizer: Any = None,
        default_prepend_bos: bool | None = None,
        default_padding_side: str | None = None,
        dtype: str | torch.dtype = torch.float32,
        first_n_layers: int | None = None,
        n_ctx: int | None = None,
        **hub_options: Any,
    ) -> T:
        """Load a model's weights and, unless told otherwise, rewrite them so that they are easier to read.

        Parameters
        ----------
        model_name
            One of the field's aliases (``"gpt2-small"``), a hub id, a local directory, or a GGUF file.
        fold_ln, center_writing_weights, center_unembed, fold_value_biases
            Processing steps; log-probabilities never change. Writing weights are centred where the norm is LayerNorm,
            the only one that is blind to it. See `tl_widgets.loading.processing`.
        refactor_factored_attn_matrices
            Each head's QK and OV in their singular bases; refused for rotary models, among others.
        hf_model
            A transformers model to take the weights from; asks nothing of a network.
        tokenizer
            In place of the model's own. With `hf_model` and none, the model reads tokens only.
        default_prepend_bos
            Whether strings start with BOS unless a call says otherwise.
        dtype
            A torch dtype, or ``"float32"``, ``"bf16"``, ...
        first_n_layers, n_ctx
            Load only the first layers; set another longest context.
        hub_options
            For the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``, ...

        Raises
        ------
        CannotLoad
            For an unknown name (the nearest are suggested), an architecture that is not mapped, or broken files.
        """
        source = loading.find_source(model_name, hf_model, **hub_options)
        overrides = {"device": device, "dtype": as_dtype(dtype), "first_n_layers": first_n_layers, "n_ctx": n_ctx}
        if default_prepend_bos is not None:
            overrides["default_prepend_bos"] = default_prepend_bos
        cfg, family = loading.config_of(source, **overrides)
        model = cls(cfg, tokenizer or source.load_tokenizer(), default_padding_side=default_padding_side)
        loading.fill_(model, family, source.tensors)
        loading.process_(
            model,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights and cfg.normalization_type == "LN",
            center_unembed=center_unembed,
            fold_value_biases=fold_value_biases,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
        )
        print(f"Loaded pretrained model {model_name} into {cls.__name__}")
        return model

    @classmethod
    def from_pretrained_no_processing(
        cls: type[T],
        model_name: str,
        fold_ln: bool = False,
        center_writing_weights: bool = False,
        center_unembed: bool = False,
        fold_value_biases: bool = False,
        **from_pretrained_kwargs: Any,
    ) -> T:
        """`from_pretrained` with the weights as they are."""
        return cls.from_pretrained(
            model_name, fold_ln, center_writing_weights, center_unembed, fold_value_biases, **from_pretrained_kwargs
        )

    # Text

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str | None = None) -> None:
        """Read text through `tokenizer` from now on."""
        self.text = Text(tokenizer, self.cfg.n_ctx, self.cfg.default_prepend_bos, default_padding_side)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, or None."""
        return self.text.tokenizer if self.text else None

    def _text(self) -> Text:
        if self.text is None:
            raise BadInput("This model has no tokenizer: pass tokens, or give it one with set_tokenizer().")
        return self.text

    def to_tokens(
        self,
        input: str | list[str],
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        move_to_device: bool = True,
        truncate: bool = True,
    ) -> Tensor:
        """Text -> tokens ``[batch, pos]``; BOS first by default, rows padded to one length, cut to the context."""
        tokens = self._text().encode(input, prepend_bos, padding_side, truncate).tokens
        return tokens.to(self.embed.W_E.device) if move_to_device else tokens

    def to_string(self, tokens: Any) -> str | list[str]:
        """Tokens ``[pos]`` -> a string, ``[batch, pos]`` -> a list of strings."""
        return self._text().decode(tokens)

    def to_str_tokens(
        self, input: Prompt, prepend_bos: bool | None = None, padding_side: str | None = None
    ) -> list[str] | list[list[str]]:
        """Each token of a string (or of ``[pos]`` tokens) as a string; a list of strings gives a list of lists."""
        return self._text().split(input, prepend_bos, padding_side)

    def to_single_token(self, string: str) -> int:
        """Return the id of a string that is exactly one token (mind the leading space: ``" Mary"``)."""
        return self._text().single_token(string)

    def to_single_str_token(self, int_token: int) -> str:
        """Return the string of one token id."""
        return self._text().split([int_token])[0]  # type: ignore[return-value]

    # Running

    def forward(
        self,
        input: Prompt,
        return_type: ReturnType | None = "logits",
        loss_per_token: bool = False,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        start_at_layer: int | None = None,
        attention_mask: Tensor | None = None,
        stop_at_layer: int | None = None,
        tokens: Tensor | None = None,
    ) -> Any:
        """Run the model.

        Parameters
        ----------
        input
            A string, a list of strings, or tokens ``[batch, pos]`` or ``[pos]``; with `start_at_layer`, the residual
            stream ``[batch, pos, d_model]`` that enters that layer.
        return_type
            ``"logits"`` ``[batch, pos, d_vocab]``, ``"loss"`` (mean cross-entropy in nats), ``"both"``, or None.
        loss_per_token
            The loss as ``[batch, pos - 1]``.
        prepend_bos, padding_side
            For strings; None is the model's default.
        start_at_layer, stop_at_layer
            First layer to run, and the first not to run (which returns the residual stream entering it); negative
            ones count from the end.
        attention_mask
            ``[batch, pos]``, 0 for padding; by default what the tokenisation of strings says, or the run of padding
            tokens at the padded side.
        tokens
            The tokens behind a residual stream `input`, for the loss.
        """
        if return_type not in ("logits", "loss", "both", None):
            raise BadInput(f"return_type is 'logits', 'loss', 'both' or None, not {return_type!r}.")
        start, stop = self._layers(start_at_layer, stop_at_layer)
        if start_at_layer is None:
            batch = self.read(input, prepend_bos, padding_side, attention_mask)
            tokens, tokens_mask = batch.tokens, batch.mask
            mask = self.attention_mask(tokens, tokens_mask)
            residual = self.embed_tokens(tokens, mask)
        else:
            tokens_mask = attention_mask
            residual = self._residual_stream(input)
            mask = self.attention_mask(residual, attention_mask)
        residual = self.run_blocks(residual, mask, start, stop)
        if stop_at_layer is not None:
            return residual
        if return_type is None:
            return None
        logits = self.to_logits(residual)
        if return_type == "logits":
            return logits
        if tokens is None:
            raise BadInput("The loss needs the tokens behind the residual stream: pass tokens=.")
        loss = lm_cross_entropy_loss(logits, tokens, tokens_mask, loss_per_token)
        return loss if return_type == "loss" else Output(logits, loss)

    def _layers(self, start: int | None, stop: int | None) -> tuple[int, int]:
        n_layers = self.cfg.n_layers
        for name, layer in (("start_at_layer", start), ("stop_at_layer", stop)):
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

    def read(
        self,
        input: Prompt,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
    ) -> TokenBatch:
        """Text or tokens as checked tokens ``[batch, pos]`` on the model's device, with the mask of their padding."""
        device = self.embed.W_E.device
        if isinstance(input, str) or (isinstance(input, (list, tuple)) and input and isinstance(input[0], str)):
            batch = self._text().encode(input, prepend_bos, padding_side)
            tokens, mask = batch.tokens.to(device), batch.mask
        else:
            tokens, mask = check_tokens(input, self.cfg.d_vocab, self.cfg.n_ctx, device), None
            if self.text is not None and attention_mask is None:
                mask = self.text.mask_of(tokens, prepend_bos, padding_side)
        mask = mask if attention_mask is None else attention_mask
        return TokenBatch(tokens, self._mask_that_matters(mask, tokens))

    def _mask_that_matters(self, mask: Tensor | None, tokens: Tensor) -> Tensor | None:
        """Return the mask, or None where all tokens are real (attention without a mask is the fast kind)."""
        if mask is None:
            return None
        if mask.shape != tokens.shape:
            raise BadInput(f"attention_mask is {list(mask.shape)}, but the tokens are {list(tokens.shape)}.")
        return None if bool((mask == 1).all()) else mask.to(tokens.device)

    def run_with_cache(  # type: ignore[override]  # the cache is an object here
        self,
        *model_args: Any,
        return_cache_object: bool = True,
        remove_batch_dim: bool = False,
        **kwargs: Any,
    ) -> tuple[Any, ActivationCache | dict[str, Tensor]]:
        """Run the model once and keep its activations; see `HookedRootModule.run_with_cache` and `forward`.

        Returns
        -------
        tuple
            The output, and an `ActivationCache` (or a dict, with ``return_cache_object=False``).
        """
        batch = None
        if "input" in kwargs:
            model_args = (kwargs.pop("input"), *model_args)
        if model_args and kwargs.get("start_at_layer") is None:
            options = {name: kwargs.pop(name, None) for name in ("prepend_bos", "padding_side", "attention_mask")}
            batch = self.read(model_args[0], **options)
            real = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask
            model_args = (batch.tokens, *model_args[1:])
            kwargs["attention_mask"] = real
        output, cache_dict = super().run_with_cache(*model_args, remove_batch_dim=remove_batch_dim, **kwargs)
        if not return_cache_object:
            return output, cache_dict
        tokens, mask = (batch.tokens, batch.mask) if batch else (kwargs.get("tokens"), kwargs.get("attention_mask"))
        return output, ActivationCache(cache_dict, self, not remove_batch_dim, tokens, mask)
