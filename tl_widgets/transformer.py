"""`HookedTransformer`: the face of the engine; each method hands on to the room that does it."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor

from tl_widgets import loading
from tl_widgets.cache import ActivationCache
from tl_widgets.config import HookedTransformerConfig, as_dtype
from tl_widgets.errors import BadInput, BadType
from tl_widgets.loading.processing_methods import ProcessingMethods
from tl_widgets.math import lm_cross_entropy_loss
from tl_widgets.network.devices import check_devices, place_
from tl_widgets.network.masking import AttentionMask
from tl_widgets.text import (
    HookedTransformerKeyValueCache,
    Prompt,
    Text,
    TokenBatch,
    check_tokens,
    generation,
    is_text,
    lookup,
)

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
        check_devices(cfg)
        super().__init__(cfg)
        if cfg.n_devices > 1 and move_to_device:
            self.move_model_modules_to_device()
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
        refactor_factored_attn_matrices: bool = False,
        checkpoint_index: int | None = None,
        checkpoint_value: int | None = None,
        checkpoint_label: str | None = None,
        hf_model: Any = None,
        device: str | torch.device | None = None,
        n_devices: int = 1,
        tokenizer: Any = None,
        move_to_device: bool = True,
        fold_value_biases: bool = True,
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
        checkpoint_index, checkpoint_value, checkpoint_label
            Checkpoints of a training run, which this version does not find: a hub's ``revision=`` does.
        hf_model
            A transformers model to take the weights from; asks nothing of a network.
        n_devices
            Split the layers, in order, over so many CUDA devices.
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
        if (checkpoint_index, checkpoint_value, checkpoint_label) != (None, None, None):
            raise BadInput("Checkpoints are not found by number here: pass the hub's revision= of the one you want.")
        source = loading.find_source(model_name, hf_model, **hub_options)
        overrides = {"device": device, "n_devices": n_devices, "dtype": as_dtype(dtype)}
        overrides |= {"first_n_layers": first_n_layers, "n_ctx": n_ctx}
        if default_prepend_bos is not None:
            overrides["default_prepend_bos"] = default_prepend_bos
        cfg, family = loading.config_of(source, **overrides)
        model = cls(cfg, tokenizer or source.load_tokenizer(), move_to_device, default_padding_side)
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
        refactor_factored_attn_matrices: bool = False,
        fold_value_biases: bool = False,
        dtype: str | torch.dtype = torch.float32,
        default_prepend_bos: bool | None = None,
        default_padding_side: str | None = None,
        **from_pretrained_kwargs: Any,
    ) -> T:
        """`from_pretrained` with the weights as they are."""
        return cls.from_pretrained(
            model_name,
            fold_ln=fold_ln,
            center_writing_weights=center_writing_weights,
            center_unembed=center_unembed,
            refactor_factored_attn_matrices=refactor_factored_attn_matrices,
            fold_value_biases=fold_value_biases,
            dtype=dtype,
            default_prepend_bos=default_prepend_bos,
            default_padding_side=default_padding_side,
            **from_pretrained_kwargs,
        )

    # Text

    def set_tokenizer(self, tokenizer: Any, default_padding_side: str | None = None) -> None:
        """Read text through `tokenizer` from now on."""
        self.text = Text(tokenizer, self.cfg, default_padding_side)

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, or None; set one and the model reads through it."""
        return self.text.tokenizer if self.text else None

    @tokenizer.setter
    def tokenizer(self, tokenizer: Any) -> None:
        self.set_tokenizer(tokenizer)

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

    def get_token_position(
        self,
        single_token: str | int | Tensor,
        input: Prompt,
        mode: Literal["first", "last"] = "first",
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
    ) -> int:
        """Where one token stands in one prompt (mind that BOS is at 0)."""
        tokens = self.read(input, prepend_bos, padding_side).tokens
        return lookup.position_of(int(lookup.ids_of(single_token, self.to_single_token)), tokens, mode)

    def tokens_to_residual_directions(self, tokens: Any) -> Tensor:
        """Columns of W_U, ``[..., d_model]`` for tokens ``[...]``; one token, or a string that is one: ``[d_model]``.

        The residual stream's dot product with a direction is that token's logit, up to the final norm.
        """
        return lookup.directions_of(lookup.ids_of(tokens, self.to_single_token), self.W_U)

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
            if tokens is not None:
                batch = self.read(tokens, prepend_bos, padding_side, attention_mask)
                tokens, tokens_mask = batch.tokens, batch.mask
            else:
                tokens_mask = self._mask_that_matters(attention_mask, residual.shape[:2], residual.device)
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

    def read(
        self,
        input: Prompt,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        attention_mask: Tensor | None = None,
    ) -> TokenBatch:
        """Text or tokens as checked tokens ``[batch, pos]`` on the model's device, with the mask of their padding."""
        device = self.embed.W_E.device
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
        return None if bool((mask == 1).all()) else mask.long()

    # Devices

    def to(self, *args: Any, print_details: bool = False, **kwargs: Any) -> Any:
        """Move or cast the model as torch's `Module.to` does, and keep `cfg.device` and `cfg.dtype` true.

        Parameters
        ----------
        print_details
            Say what is done.
        """
        if print_details:
            print("Model to", *args, *(f"{name}={value}" for name, value in kwargs.items()))
        super().to(*args, **kwargs)
        # From here on the model is where its weights are, which need not be where the config had them.
        weight = self.embed.W_E
        self.cfg.dtype = weight.dtype
        if len({parameter.device for parameter in self.parameters()}) == 1:
            self.cfg.device, self.cfg.n_devices = str(weight.device), 1
        return self

    def cuda(self, device: int | torch.device | None = None) -> Any:
        """Move to a CUDA device: the current one, or this one."""
        if not torch.cuda.is_available():
            raise BadInput("This machine has no CUDA device that torch can use: model.cpu() stays on the processor.")
        return self.to(torch.device("cuda", torch.cuda.current_device()) if device is None else device)

    def cpu(self) -> Any:
        """Move to the processor."""
        return self.to("cpu")

    def mps(self) -> Any:
        """Move to Apple's GPU."""
        if not torch.backends.mps.is_available():
            raise BadInput("This machine has no MPS device that torch can use: model.cpu() stays on the processor.")
        return self.to("mps")

    def move_model_modules_to_device(self) -> None:
        """Move every part to where `cfg.device` and `cfg.n_devices` say: the layers in order over the devices."""
        check_devices(self.cfg)
        place_(self)

    # Generating

    def generate(
        self,
        input: Prompt = "",
        max_new_tokens: int = 10,
        stop_at_eos: bool = True,
        eos_token_id: int | Iterable[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        return_type: str = "input",
        verbose: bool = True,
        **generation_kwargs: Any,
    ) -> Any:
        """Continue a prompt; hooks are at work all along, and Ctrl-C keeps what was made by then.

        Parameters
        ----------
        input
            Text, a chat, tokens ``[batch, pos]``, or embeddings ``[batch, pos, d_model]`` (without positions). ``""``
            starts from BOS. Prompts of unequal length are padded on the left unless `padding_side` says otherwise.
        max_new_tokens
            At most so many; the end of the context ends it before, with a warning.
        stop_at_eos, eos_token_id
            A row that has said EOS (the tokenizer's, or this id, or one of these) is finished and filled up with EOS;
            generation stops when all rows are.
        do_sample
            Draw each token at random; else take the most likely, and the next four arguments count nothing.
        top_k, top_p, temperature, freq_penalty
            See `tl_widgets.utils.sample_logits`.
        use_past_kv_cache
            Keep keys and values, so that each token runs one position. Hooks then see that one position, after a
            first run of the whole prompt.
        return_type
            ``"input"`` (what was given: text, tokens or embeddings), ``"str"``, ``"tokens"``, ``"embeds"``.
        verbose
            Show progress.
        generation_kwargs
            Ignored, with a warning: what other libraries' `generate` understands.

        Returns
        -------
        str | list[str] | Tensor
            The prompt and what follows; tokens ``[batch, pos + new]`` (after embeddings: ``[batch, new]``), or
            embeddings ``[batch, pos + new, d_model]``. One row of text is a string.

        Examples
        --------
        >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50))
        >>> model.generate(torch.tensor([[3, 1, 4]]), max_new_tokens=5, stop_at_eos=False, verbose=False).shape
        torch.Size([1, 8])
        """
        for name in generation_kwargs:
            warnings.warn(f"generate() knows no {name!r} and ignores it.", stacklevel=2)
        sampling = generation.Sampling(do_sample, top_k, top_p, temperature, freq_penalty)
        options = generation.Options(
            max_new_tokens,
            stop_at_eos,
            eos_token_id,
            return_type,
            use_past_kv_cache,
            sampling,
            prepend_bos,
            padding_side,
        )
        return generation.generate(self, input, options, verbose)

    def generate_stream(
        self,
        input: Prompt = "",
        max_new_tokens: int = 10,
        max_tokens_per_yield: int = 25,
        stop_at_eos: bool = True,
        eos_token_id: int | Iterable[int] | None = None,
        do_sample: bool = True,
        top_k: int | None = None,
        top_p: float | None = None,
        temperature: float = 1.0,
        freq_penalty: float = 0.0,
        use_past_kv_cache: bool = True,
        prepend_bos: bool | None = None,
        padding_side: str | None = None,
        return_type: str = "input",
        verbose: bool = True,
    ) -> Iterator[Any]:
        """Continue a prompt as `generate` does, and yield parts as soon as they are there.

        Parameters
        ----------
        max_tokens_per_yield
            A part comes as soon as it holds so many tokens, and what is left comes at the end. The first begins with
            the prompt.
        return_type
            ``"str"`` yields text (a list of strings for several rows), anything else tokens ``[batch, new]``.
        """
        sampling = generation.Sampling(do_sample, top_k, top_p, temperature, freq_penalty)
        options = generation.Options(
            max_new_tokens,
            stop_at_eos,
            eos_token_id,
            return_type,
            use_past_kv_cache,
            sampling,
            prepend_bos,
            padding_side,
        )
        return generation.generate_stream(self, input, options, max_tokens_per_yield, verbose)

    # Caching

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
        run = inspect.signature(self.forward).parameters
        options = {name: kwargs.pop(name) for name in list(kwargs) if name not in run}
        given = inspect.signature(self.forward).bind(*model_args, **kwargs).arguments
        if given.get("start_at_layer") is None:
            reading = {name: given.pop(name, None) for name in ("prepend_bos", "padding_side", "attention_mask")}
            batch = self.read(given["input"], **reading)
            real = torch.ones_like(batch.tokens) if batch.mask is None else batch.mask
            given |= {"input": batch.tokens, "attention_mask": real}
            tokens: Tensor | None = batch.tokens.clone()  # a copy: the caller may fill the tensor anew
            mask = batch.mask
        else:
            tokens, mask = given.get("tokens"), given.get("attention_mask")
            tokens = None if tokens is None else torch.atleast_2d(tokens).clone()
        output, cache_dict = super().run_with_cache(**given, remove_batch_dim=remove_batch_dim, **options)
        if not return_cache_object:
            return output, cache_dict
        return output, ActivationCache(cache_dict, self, not remove_batch_dim, tokens, mask)
