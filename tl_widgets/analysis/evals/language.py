"""Loss on text: a sentence, data sets of several kinds, and random tokens that come twice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from tl_widgets.environment import library
from tl_widgets.errors import BadInput
from tl_widgets.text.corpus import tokenize_and_concatenate

_SENTENCE = (
    "The river rises in the hills to the north, runs past the old mill and under three stone bridges, and reaches the "
    "sea near a small harbour, where fishing boats leave before dawn and come back in the afternoon."
)
# Tokens that nearly every vocabulary has and that are neither special nor single bytes.
_ORDINARY_TOKENS = (100, 20000)
_SUBSEQ_LEN = 384


@torch.no_grad()
def sanity_check(model: Any) -> Tensor:
    """Loss on one plain English sentence, in nats a token: a trained model is far below ``log(d_vocab)``."""
    return model(_SENTENCE, return_type="loss")


# name: the hub's data set and its configuration, and the column of text.
_DATA: dict[str, tuple[tuple[str, ...], str]] = {
    "wiki": (("wikitext", "wikitext-2-v1"), "text"),
    "owt": (("stas/openwebtext-10k",), "text"),
    "pile": (("NeelNanda/pile-10k",), "text"),
    "code": (("codeparrot/codeparrot-valid-v2-near-dedup",), "content"),
}


def _make_data_loader(name: str, tokenizer: Any, batch_size: int) -> DataLoader:
    hub_id, column = _DATA[name]
    data = library("datasets", f"make_{name}_data_loader").load_dataset(*hub_id, split="train")
    tokens = tokenize_and_concatenate(data, tokenizer, column_name=column)
    return DataLoader(tokens, batch_size=batch_size, shuffle=True, drop_last=True)


def make_wiki_data_loader(tokenizer: Any, batch_size: int = 8) -> DataLoader:
    """WikiText-2's training text as shuffled batches, ``{"tokens": [batch_size, 1024]}``."""
    return _make_data_loader("wiki", tokenizer, batch_size)


def make_owt_data_loader(tokenizer: Any, batch_size: int = 8) -> DataLoader:
    """Ten thousand documents of OpenWebText (GPT-2's kind of text), ``{"tokens": [batch_size, 1024]}``."""
    return _make_data_loader("owt", tokenizer, batch_size)


def make_pile_data_loader(tokenizer: Any, batch_size: int = 8) -> DataLoader:
    """Ten thousand documents of the Pile, ``{"tokens": [batch_size, 1024]}``."""
    return _make_data_loader("pile", tokenizer, batch_size)


def make_code_data_loader(tokenizer: Any, batch_size: int = 8) -> DataLoader:
    """Python files of CodeParrot's validation set, ``{"tokens": [batch_size, 1024]}``."""
    return _make_data_loader("code", tokenizer, batch_size)


@torch.no_grad()
def evaluate_on_dataset(model: Any, data_loader: Any, truncate: int = 100, device: Any = None) -> float:
    """Mean loss over the batches of a data loader, in nats a token.

    Parameters
    ----------
    data_loader
        Of batches ``{"tokens": [batch, pos]}``.
    truncate
        Stop after the batch of this index (counted from 0).
    device
        Where the tokens go; None is where the model is.
    """
    losses = []
    for i, batch in enumerate(data_loader):
        tokens = batch["tokens"] if device is None else batch["tokens"].to(device)
        losses.append(model(tokens, return_type="loss").item())
        if i >= truncate:
            break
    if not losses:
        raise BadInput("The data loader has no batch: drop_last=True with fewer rows than a batch leaves none.")
    return sum(losses) / len(losses)


@torch.no_grad()
def induction_loss(
    model: Any,
    tokenizer: Any = None,
    batch_size: int = 4,
    subseq_len: int | None = None,
    prepend_bos: bool | None = None,
    device: Any = None,
) -> Tensor:
    """Loss on the second half of random tokens that come twice: near 0 where induction heads have formed.

    Parameters
    ----------
    tokenizer
        Whose BOS stands first; None is the model's own.
    batch_size, subseq_len
        So many rows of ``2 * subseq_len`` tokens, drawn by torch's global generator; by default 384, or what fits
        the context.
    prepend_bos
        Put BOS in the place of each row's first token; None is the model's default.
    device
        Where the tokens go; None is where the model is.

    Returns
    -------
    Tensor
        Nats a token. See https://transformer-circuits.pub/2022/in-context-learning-and-induction-heads.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=1, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=300, seed=0))
    >>> induction_loss(model, subseq_len=16, prepend_bos=False) > 5  # no training, no induction
    tensor(True)
    """
    n_ctx, d_vocab = model.cfg.n_ctx, model.cfg.d_vocab
    subseq_len = min(_SUBSEQ_LEN, n_ctx // 2) if subseq_len is None else subseq_len
    if not 2 <= subseq_len <= n_ctx // 2:
        raise BadInput(f"subseq_len is 2 to {n_ctx // 2}, as twice so many tokens fill the context; not {subseq_len}.")
    low, high = _ORDINARY_TOKENS
    # Small vocabularies are drawn from whole: none of their tokens is set apart.
    low, high = (low, min(high, d_vocab)) if d_vocab > low else (0, d_vocab)
    half = torch.randint(low, high, (batch_size, subseq_len))
    tokens = torch.cat([half, half], dim=1)
    if model.cfg.default_prepend_bos if prepend_bos is None else prepend_bos:
        tokenizer = model.tokenizer if tokenizer is None else tokenizer
        bos = None if tokenizer is None else tokenizer.bos_token_id
        if bos is None:
            raise BadInput("There is no tokenizer with a BOS token here: pass one, or prepend_bos=False.")
        tokens[:, 0] = bos
    losses = model(tokens if device is None else tokens.to(device), return_type="loss", loss_per_token=True)
    # The first token of the second half follows at random, and the next is its first repetition.
    return losses[:, subseq_len + 1 :].mean()


def evaluate(model: Any, truncate: int = 100, batch_size: int = 8, tokenizer: Any = None) -> dict[str, float]:
    """Loss on WikiText, OpenWebText, the Pile and code, each printed when it is known.

    Parameters
    ----------
    truncate
        See `evaluate_on_dataset`.
    tokenizer
        None is the model's own.

    Returns
    -------
    dict
        ``"wiki_loss"``, ``"owt_loss"``, ``"pile_loss"``, ``"code_loss"``, in nats a token.
    """
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None:
        raise BadInput("This model has no tokenizer to read data sets with: pass one.")
    results = {}
    for name in _DATA:
        loss = evaluate_on_dataset(model, _make_data_loader(name, tokenizer, batch_size), truncate)
        print(f"{name}: {loss}")
        results[f"{name}_loss"] = loss
    return results
