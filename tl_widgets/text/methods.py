"""Text as methods of a model: to tokens and back, and generating."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterable, Iterator
from typing import Any, Literal

from torch import Tensor, nn

from tl_widgets.config import HookedTransformerConfig
from tl_widgets.errors import BadInput
from tl_widgets.text import corpus, generation, lookup
from tl_widgets.text.tokens import Prompt, Text


class TextMethods(nn.Module):
    """What a model does with text, for a module with `cfg`, `embed`, `W_U` and `read`."""

    cfg: HookedTransformerConfig
    embed: Any
    W_U: Any
    read: Any
    text: Text | None
    dataset: Any = None

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

    def load_sample_training_dataset(self, **kwargs: Any) -> Any:
        """Some of the kind of text this model was trained on, by its original architecture; kept in `dataset`.

        Parameters
        ----------
        kwargs
            See `tl_widgets.utils.get_dataset`.

        Raises
        ------
        UnknownName
            Where it is not known what models of this architecture were trained on.
        """
        self.dataset = corpus.training_sample(self.cfg.original_architecture, **kwargs)
        return self.dataset

    def sample_datapoint(
        self, tokenize: bool = False, prepend_bos: bool | None = None, padding_side: str | None = None
    ) -> str | Tensor:
        """One document of `dataset` (loaded at the first call), drawn by Python's global generator.

        Parameters
        ----------
        tokenize
            Return tokens ``[1, pos]``, cut to the context, rather than the text.
        """
        dataset = self.load_sample_training_dataset() if self.dataset is None else self.dataset
        text = dataset[random.randrange(len(dataset))]["text"]
        return self.to_tokens(text, prepend_bos, padding_side) if tokenize else text

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
        >>> import torch
        >>> from tl_widgets import HookedTransformer
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
