"""Data sets by short names and by architecture; they are local, in place of the hub's answer."""

from __future__ import annotations

import random

import datasets
import pytest
import torch
import transformer_lens
import transformer_lens.utilities.hf_utils as their_hub
import transformer_lens.utils as theirs

from tests.engine.oracle import GPT2_LIKE
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets import utils as ours

DOCUMENTS = [f"w{i:02} w{i + 1:02} w{i + 2:02}" for i in range(5, 40)]


@pytest.fixture
def asked(monkeypatch):
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        return datasets.Dataset.from_dict({"text": DOCUMENTS, "meta": range(len(DOCUMENTS))})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(their_hub, "load_dataset", load_dataset)
    return calls


@pytest.mark.parametrize("name", ["openwebtext", "owt", "pile", "c4", "code", "python", "c4_code", "c4-code", "wiki"])
def test_short_names(asked, name):
    for options in ({}, dict(streaming=True)):
        theirs.get_dataset(name, **options)
        ours.get_dataset(name, **options)
        assert asked[-1] == asked[-2]
    ours.get_dataset(name, split="train[:5]")
    assert asked[-1][1] == {"split": "train[:5]"}


def test_unknown_names(asked):
    for module in (theirs, ours):
        with pytest.raises(ValueError, match="wikis"):
            module.get_dataset("wikis")
    with pytest.raises(ValueError, match=r"Did you mean 'wiki'"):
        ours.get_dataset("wikis")
    assert not asked


@pytest.mark.parametrize(
    "architecture",
    ["neel", "neel-solu-old", "GPT2LMHeadModel", "GPTNeoForCausalLM", "GPTNeoXForCausalLM", "GPTJForCausalLM",
     "OPTForCausalLM"],
)  # fmt: skip
def test_what_a_model_was_trained_on(asked, architecture):
    config = GPT2_LIKE | dict(original_architecture=architecture)
    their_model = transformer_lens.HookedTransformer(transformer_lens.HookedTransformerConfig(**config))
    model = HookedTransformer(config)
    for each in (their_model, model):
        each.load_sample_training_dataset(streaming=False)
    assert asked[0] == asked[1]
    assert model.dataset.column_names == ["text", "meta"]


@pytest.mark.parametrize("architecture", [None, "LlamaForCausalLM"])
def test_what_nobody_knows(asked, architecture):
    model = HookedTransformer(GPT2_LIKE | dict(original_architecture=architecture))
    with pytest.raises(ValueError, match="get_dataset loads data sets by name"):
        model.load_sample_training_dataset()
    assert model.dataset is None and not asked


def test_one_document(asked):
    model = HookedTransformer(GPT2_LIKE | dict(original_architecture="GPT2LMHeadModel"), tokenizer=fifty_words())
    drawn = {model.sample_datapoint() for _ in range(20)}
    assert len(drawn) > 3 and drawn < set(DOCUMENTS)
    assert len(asked) == 1
    random.seed(1)
    text = model.sample_datapoint()
    random.seed(1)
    assert torch.equal(model.sample_datapoint(tokenize=True, prepend_bos=False), model.to_tokens(text, False))
    assert model.sample_datapoint(tokenize=True).tolist()[0][0] == 1


def test_a_single_column(asked):
    data = ours.get_dataset("pile")
    expected = theirs.keep_single_column(data, "text")
    kept = ours.keep_single_column(data, "text")
    assert kept.column_names == expected.column_names == ["text"] and kept[:] == {"text": DOCUMENTS}
    streamed = ours.keep_single_column(data.to_iterable_dataset(), "text")
    assert next(iter(streamed)) == {"text": DOCUMENTS[0]}
    with pytest.raises(ValueError, match="Did you mean 'text'"):
        ours.keep_single_column(data, "texts")
