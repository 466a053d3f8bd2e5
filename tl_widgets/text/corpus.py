"""Data sets of text: small ones by short names, and any as rows of tokens to train on."""

from __future__ import annotations

from itertools import chain
from typing import Any

import numpy as np

from tl_widgets.environment import library
from tl_widgets.errors import BadInput, unknown

# Short name -> the hub's data set: ten to twenty thousand documents of a larger one.
_HUB_IDS = {
    "openwebtext": "stas/openwebtext-10k",
    "owt": "stas/openwebtext-10k",
    "pile": "NeelNanda/pile-10k",
    "c4": "NeelNanda/c4-10k",
    "code": "NeelNanda/code-10k",
    "python": "NeelNanda/code-10k",
    "c4_code": "NeelNanda/c4-code-20k",
    "c4-code": "NeelNanda/c4-code-20k",
    "wiki": "NeelNanda/wiki-10k",
}

# The architecture that a model had -> short name of the text it was trained on.
_TRAINED_ON = {
    "neel": "c4_code",
    "neel-solu-old": "pile",
    "GPT2LMHeadModel": "openwebtext",
    "GPTNeoForCausalLM": "pile",
    "GPTNeoXForCausalLM": "pile",
    "GPTJForCausalLM": "pile",
    "OPTForCausalLM": "pile",
}


def get_dataset(dataset_name: str, **kwargs: Any) -> Any:
    """Load a small data set of text from the hub, by a short name.

    Parameters
    ----------
    dataset_name
        ``"openwebtext"`` (or ``"owt"``), ``"pile"``, ``"c4"``, ``"code"`` (``"python"``), ``"c4_code"``, ``"wiki"``.
    kwargs
        Go on to ``datasets.load_dataset``: ``split`` (``"train"`` by default), ``streaming``, ...

    Returns
    -------
    Dataset
        With a column of text.
    """
    if dataset_name not in _HUB_IDS:
        raise unknown("data set", dataset_name, _HUB_IDS, "Any other is loaded by datasets.load_dataset.")
    return library("datasets", "get_dataset").load_dataset(_HUB_IDS[dataset_name], **{"split": "train"} | kwargs)


def training_sample(original_architecture: str | None, **kwargs: Any) -> Any:
    """Load some of the text that models of this architecture were trained on; `kwargs` as in `get_dataset`."""
    if original_architecture not in _TRAINED_ON:
        raise unknown(
            "architecture",
            original_architecture,
            _TRAINED_ON,
            "What it was trained on is not known here: tl_widgets.utils.get_dataset loads data sets by name.",
        )
    return get_dataset(_TRAINED_ON[original_architecture], **kwargs)


def keep_single_column(dataset: Any, col_name: str) -> Any:
    """Return the data set with one of its columns."""
    if dataset.column_names is not None and col_name not in dataset.column_names:
        raise unknown("column", col_name, dataset.column_names)
    return dataset.select_columns(col_name)


def tokenize_and_concatenate(
    dataset: Any,
    tokenizer: Any,
    streaming: bool = False,
    max_length: int = 1024,
    column_name: str = "text",
    add_bos_token: bool = True,
    num_proc: int | None = 10,
    set_format: bool = True,
) -> Any:
    """All the documents of a data set one after the other, EOS between them, cut into rows of one length.

    No row is padded (but for a data set shorter than one) and none starts where a document does, unless by chance:
    good for training. What is left over at the end of each batch of a thousand documents is dropped.

    Parameters
    ----------
    dataset
        Of Hugging Face's ``datasets``, with a column of text; streamed ones too.
    tokenizer
        A transformers tokenizer with BOS and EOS.
    streaming
        Whether `dataset` is streamed (an ``IterableDataset``): `num_proc` and `set_format` do not apply.
    max_length
        Tokens a row, BOS included.
    column_name
        The column of text; the others go.
    add_bos_token
        Start every row with BOS.
    num_proc
        Processes to tokenize with; None works in this one.
    set_format
        Rows come as torch tensors.

    Returns
    -------
    Dataset or IterableDataset
        One column, ``"tokens"`` ``[rows, max_length]``.
    """
    library("datasets", "tokenize_and_concatenate")
    columns = dataset.column_names
    if columns is not None and column_name not in columns:
        raise unknown("column", column_name, columns)
    ids = {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos")}
    for name, token in ids.items():
        if token is None and (name == "eos" or add_bos_token):
            raise BadInput(f"The tokenizer has no {name.upper()} token: set tokenizer.{name}_token.")
    length = max_length - add_bos_token
    if length < 1:
        raise BadInput(f"max_length is at least {1 + add_bos_token}, not {max_length}.")

    def rows_of(documents: dict[str, list[str]]) -> dict[str, np.ndarray]:
        texts = documents[column_name]
        # The warning that a text is longer than the model's context does not concern rows that are cut anyway.
        encoded = tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        stream = list(chain.from_iterable([ids["eos"], *document] for document in encoded))[1:]
        if len(stream) < length:
            filler = ids["eos"] if tokenizer.pad_token_id is None else tokenizer.pad_token_id
            stream += [filler] * (length - len(stream))
        n_rows = len(stream) // length
        rows = np.array(stream[: n_rows * length], dtype=np.int64).reshape(n_rows, length)
        if add_bos_token:
            rows = np.concatenate([np.full((n_rows, 1), ids["bos"], dtype=np.int64), rows], axis=1)
        return {"tokens": rows}

    options = {} if streaming else {"num_proc": num_proc}
    tokens = dataset.map(rows_of, batched=True, remove_columns=columns or [column_name], **options)
    return tokens.with_format("torch") if set_format and not streaming else tokens
