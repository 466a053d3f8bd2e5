"""Generation: a model continues a text token by token, with its hooks at work."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.text.kv_cache import HookedTransformerKeyValueCache
from tl_widgets.text.sampling import check_sampling, sample_logits
from tl_widgets.text.tokens import is_text

RETURN_TYPES = ("input", "str", "tokens", "embeds")


@dataclass(frozen=True)
class Sampling:
    """How a token is chosen from its logits; see `sample_logits`. Greedily, the other fields count nothing."""

    do_sample: bool = True
    top_k: int | None = None
    top_p: float | None = None
    temperature: float = 1.0
    freq_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_sampling(self.top_k, self.top_p, self.temperature, self.freq_penalty)

    def choose(self, logits: Tensor, tokens: Tensor) -> Tensor:
        """``[batch, d_vocab]`` and the tokens so far ``[batch, pos]`` -> ``[batch]``."""
        if not self.do_sample:
            return logits.argmax(dim=-1)
        return sample_logits(logits, self.top_k, self.top_p, self.temperature, self.freq_penalty, tokens=tokens)


@dataclass
class Prompt:
    """What is to be continued.

    Attributes
    ----------
    tokens
        ``[batch, pos]``; without positions for an embedding, of which nobody knows the tokens.
    mask
        ``[batch, pos]``, 0 for padding; None where there is none.
    embed
        ``[batch, pos, d_model]``, where that was given in place of tokens.
    is_text
        Whether strings (or messages) were given.
    """

    tokens: Tensor
    mask: Tensor | None = None
    embed: Tensor | None = None
    is_text: bool = False

    @property
    def n_pos(self) -> int:
        """Positions, padding included."""
        return self.tokens.shape[1] if self.embed is None else self.embed.shape[1]


def read_prompt(model: Any, input: Any, prepend_bos: bool | None, padding_side: str | None) -> Prompt:
    """Read text, tokens or an embedding ``[batch, pos, d_model]``; text is padded on the left unless told otherwise."""
    if isinstance(input, Tensor) and input.is_floating_point():
        d_model = model.cfg.d_model
        if input.ndim != 3 or input.shape[-1] != d_model:
            raise BadInput(f"An embedding to continue is [batch, pos, {d_model}], not {list(input.shape)}.")
        none = torch.empty(len(input), 0, dtype=torch.long, device=input.device)
        return Prompt(none, embed=input)
    if not is_text(input):
        batch = model.read(input, prepend_bos, padding_side)
        return Prompt(batch.tokens, batch.mask)
    if isinstance(input, str) and input == "":
        prepend_bos = True  # there is nothing else to start from
    batch = model.read(input, prepend_bos, padding_side or "left")
    return Prompt(batch.tokens, batch.mask, is_text=True)


class Continuation:
    """The tokens that a model puts after a prompt, ``[batch]`` at a time; iterate over it once.

    Parameters
    ----------
    model
        Known by `embed_tokens`, `add_positions`, `attention_mask`, `run_blocks`, `normalize`, `to_logits`,
        `hook_points`, `cfg`.
    max_new_tokens
        At most; the end of the context or of every row comes first where it does.
    eos
        A row that has said one of these is finished, and says the first of them from then on. Empty: nothing ends it.
    use_past_kv_cache
        Whether keys and values are kept; without, every token runs the whole sequence again.
    """

    def __init__(
        self,
        model: Any,
        prompt: Prompt,
        max_new_tokens: int,
        eos: tuple[int, ...],
        sampling: Sampling,
        use_past_kv_cache: bool,
    ) -> None:
        if max_new_tokens < 0:
            raise BadInput(f"max_new_tokens is at least 0, not {max_new_tokens}.")
        self.model = model
        self.prompt = prompt
        self.max_new_tokens = max_new_tokens
        self.eos = eos
        self.sampling = sampling
        self.tokens = prompt.tokens
        self._mask = prompt.mask
        self._cache = (
            HookedTransformerKeyValueCache.init_cache(model.cfg, self.tokens.device, len(self.tokens))
            if use_past_kv_cache and model.cfg.attention_dir == "causal"  # else what came before changes too
            else None
        )

    def __iter__(self) -> Iterator[Tensor]:
        room = self.model.cfg.n_ctx - self.prompt.n_pos + 1  # the last token is said, and not read
        if self.max_new_tokens > room:
            warnings.warn(
                f"Generation ends after {room} tokens at the latest: with the prompt's {self.prompt.n_pos}, that is as "
                f"far as this model's context of {self.model.cfg.n_ctx} goes.",
                stacklevel=3,
            )
        is_finished = torch.zeros(len(self.tokens), dtype=torch.bool, device=self.tokens.device)
        ends = self.tokens.new_tensor(self.eos)
        for step in range(min(self.max_new_tokens, room)):
            logits = self._next_logits(is_first=step == 0)
            new = self.sampling.choose(logits, self.tokens.to(logits.device))
            new = new.to(self.tokens.device)  # logits come from where the last layer is
            if self.eos:
                new = new.masked_fill(is_finished, self.eos[0])
                is_finished = is_finished | torch.isin(new, ends)
            self.tokens = torch.cat([self.tokens, new[:, None]], dim=1)
            yield new
            if self.eos and is_finished.all():
                return

    @torch.no_grad()  # here too: a stream's caller has the floor between two tokens
    def _next_logits(self, is_first: bool) -> Tensor:
        """``[batch, d_vocab]``."""
        model, cache = self.model, self._cache
        if is_first or cache is None:
            tokens, embed, mask = self.tokens, self.prompt.embed, self._whole_mask()
        else:
            tokens, embed, mask = self.tokens[:, -1:], None, None
        if embed is None:
            context = model.attention_mask(tokens, mask, cache)
            residual = model.embed_tokens(tokens, context)
        else:
            if tokens.shape[1]:
                embed = torch.cat([embed, model.hook_embed(model.embed(tokens))], dim=1)
            context = model.attention_mask(embed, mask, cache)
            residual = model.add_positions(embed, context)
        residual = model.run_blocks(residual, context, 0, model.cfg.n_layers)
        if cache is not None:
            n_rows, n_pos = residual.shape[:2]
            cache.append_attention_mask(tokens.new_ones(n_rows, n_pos) if mask is None else mask)
        return self._last_logits(residual, mask)

    def _whole_mask(self) -> Tensor | None:
        if self._mask is None:
            return None
        new = self._mask.new_ones(len(self._mask), self.tokens.shape[1] - self._mask.shape[1])
        return torch.cat([self._mask, new], dim=1)

    def _last_logits(self, residual: Tensor, mask: Tensor | None) -> Tensor:
        """Logits after each row's last real token, ``[batch, d_vocab]``."""
        rows = torch.arange(len(residual), device=residual.device)
        last = torch.full_like(rows, residual.shape[1] - 1)
        if mask is not None:
            last = (torch.arange(mask.shape[1], device=mask.device) * mask).argmax(dim=1).to(residual.device)
        if residual.shape[1] > 1 and not _final_points_have_hooks(self.model):
            return self.model.to_logits(self.model.normalize(residual[rows, last][:, None]))[:, 0]
        return self.model.to_logits(self.model.normalize(residual))[rows, last]


def _final_points_have_hooks(model: Any) -> bool:
    """Whether somebody sees the final norm or the unembedding, and expects every position there."""
    return any(
        point.has_hooks() for point in model.hook_points() if (point.name or "").startswith(("ln_final", "unembed"))
    )


@dataclass
class Options:
    """The arguments that `generate` and `generate_stream` share, checked."""

    max_new_tokens: int
    stop_at_eos: bool
    eos_token_id: int | Iterable[int] | None
    return_type: str
    use_past_kv_cache: bool
    sampling: Sampling
    prepend_bos: bool | None = None
    padding_side: str | None = None

    def start(self, model: Any, input: Any) -> Continuation:
        """Check, read the prompt, and stand before the first token."""
        if self.return_type not in RETURN_TYPES:
            allowed = ", ".join(map(repr, RETURN_TYPES))
            raise BadInput(f"return_type is one of {allowed}, not {self.return_type!r}.")
        if self.return_type == "str" and model.tokenizer is None:
            raise BadInput("return_type='str' needs a tokenizer, and this model has no tokenizer: ask for 'tokens'.")
        prompt = read_prompt(model, input, self.prepend_bos, self.padding_side)
        eos = self._eos_of(model.tokenizer) if self.stop_at_eos else ()
        return Continuation(model, prompt, self.max_new_tokens, eos, self.sampling, self.use_past_kv_cache)

    def _eos_of(self, tokenizer: Any) -> tuple[int, ...]:
        eos = self.eos_token_id
        if eos is None:
            eos = getattr(tokenizer, "eos_token_id", None)
        if eos is None:
            raise BadInput("No token says where to stop: pass eos_token_id=, or stop_at_eos=False.")
        ids = (eos,) if isinstance(eos, int) else tuple(int(token) for token in eos)
        if not ids:
            raise BadInput("eos_token_id is a token or several, not an empty list; stop_at_eos=False stops at none.")
        return ids


@torch.no_grad()  # not inference_mode: what hooks keep, and the tokens themselves, may go into training later
def generate(model: Any, input: Any, options: Options, verbose: bool) -> Any:
    """See `HookedTransformer.generate`."""
    continuation = options.start(model, input)
    try:
        for _ in _with_progress(continuation, verbose):
            pass
    except KeyboardInterrupt:
        made = continuation.tokens.shape[1] - continuation.prompt.tokens.shape[1]
        warnings.warn(f"Interrupted: this is what was generated by then, {made} tokens.", stacklevel=3)
    return _returned(model, continuation, options.return_type)


def _with_progress(continuation: Continuation, verbose: bool) -> Iterable[Tensor]:
    if not verbose:
        return continuation
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    return tqdm(continuation, total=continuation.max_new_tokens, desc="Generating", unit="token", leave=False)


def _returned(model: Any, continuation: Continuation, return_type: str) -> Any:
    prompt, tokens = continuation.prompt, continuation.tokens
    if return_type == "input":
        return_type = "str" if prompt.is_text else "tokens" if prompt.embed is None else "embeds"
    if return_type == "tokens":
        return tokens
    if return_type == "embeds":
        new = model.embed(tokens)
        return new if prompt.embed is None else torch.cat([prompt.embed, new], dim=1)
    texts = _decoded(model.tokenizer, tokens)
    return texts[0] if len(texts) == 1 else texts


def generate_stream(
    model: Any, input: Any, options: Options, max_tokens_per_yield: int, verbose: bool
) -> Iterator[Tensor | str | list[str]]:
    """See `HookedTransformer.generate_stream`."""
    if max_tokens_per_yield < 1:
        raise BadInput(f"max_tokens_per_yield is at least 1, not {max_tokens_per_yield}.")
    continuation = options.start(model, input)
    steps = _with_progress(continuation, verbose)
    return _chunks(model, continuation, steps, max_tokens_per_yield, options.return_type)


def _chunks(
    model: Any, continuation: Continuation, steps: Iterable[Tensor], size: int, return_type: str
) -> Iterator[Tensor | str | list[str]]:
    told = _Told(model.tokenizer) if return_type == "str" else None
    n_told = 0
    for _ in steps:
        n_tokens = continuation.tokens.shape[1]
        if n_tokens - n_told >= size:
            yield continuation.tokens[:, n_told:] if told is None else told.what_is_new(continuation.tokens)
            n_told = n_tokens
    if told is not None:
        rest = told.what_is_new(continuation.tokens, is_last=True)
        if any(rest):
            yield rest
    elif continuation.tokens.shape[1] > n_told:
        yield continuation.tokens[:, n_told:]


class _Told:
    """What a stream of text has told so far; half a character waits for its other half."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.lengths: list[int] = []

    def what_is_new(self, tokens: Tensor, is_last: bool = False) -> str | list[str]:
        texts = _decoded(self.tokenizer, tokens)
        if not is_last:
            texts = [text.rstrip("\ufffd") for text in texts]
        before = self.lengths or [0] * len(texts)
        self.lengths = [len(text) for text in texts]
        new = [text[length:] for text, length in zip(texts, before, strict=True)]
        return new[0] if len(new) == 1 else new


def _decoded(tokenizer: Any, tokens: Tensor) -> list[str]:
    return tokenizer.batch_decode(tokens.tolist(), skip_special_tokens=True, clean_up_tokenization_spaces=False)
