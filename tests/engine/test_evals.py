"""Evaluations, against the oracle's; data sets are local, in place of the hub's answer."""

from __future__ import annotations

import random

import datasets
import pytest
import torch
from torch.utils.data import DataLoader
from transformer_lens import evals as theirs
from transformers import AutoTokenizer

from tests.engine.oracle import GPT2_LIKE, pair
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets.analysis import evals as ours

WORDS = [f"w{i:02}" for i in range(5, 50)]
DOCUMENT = " ".join(random.Random(0).choices(WORDS, k=3000))
QUESTIONS = [
    {"question": f"w05 w{i:02}", "choices": ["w07", f"w{i:02}", "w09", "w10"], "answer": i % 4, "subject": "x"}
    for i in range(11, 19)
]


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    path = tmp_path_factory.mktemp("words")
    fifty_words().save_pretrained(path)
    models = pair(GPT2_LIKE | dict(n_ctx=1024))
    for model in models:
        model.set_tokenizer(AutoTokenizer.from_pretrained(path))
    return models


@pytest.fixture
def asked(monkeypatch):
    """What the hub is asked for; it answers with a local data set of the same columns."""
    calls = []

    def load_dataset(*args, **options):
        calls.append((args, options))
        if args[0] == "cais/mmlu":
            return datasets.Dataset.from_list(QUESTIONS)
        return datasets.Dataset.from_dict({"text": [DOCUMENT] * 4, "content": [DOCUMENT[::-1]] * 4})

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    monkeypatch.setattr(theirs, "load_dataset", load_dataset)
    return calls


def test_sanity_check(both):
    loss = ours.sanity_check(both[1])
    assert loss.ndim == 0 and loss > 0 and not loss.requires_grad


@pytest.mark.parametrize("options", [{}, dict(prepend_bos=False), dict(batch_size=2, subseq_len=9)], ids=str)
def test_induction_loss_with_the_same_seed(tmp_path, options):
    # As large a vocabulary as the oracle draws from.
    models = pair(GPT2_LIKE | dict(n_ctx=1024, d_vocab=20001))
    fifty_words().save_pretrained(tmp_path)
    losses = []
    for module, model in zip((theirs, ours), models, strict=True):
        torch.manual_seed(3)
        losses.append(module.induction_loss(model, AutoTokenizer.from_pretrained(tmp_path), device="cpu", **options))
    torch.testing.assert_close(losses[1], losses[0])


def test_induction_loss_fits_a_small_context():
    model = HookedTransformer(GPT2_LIKE)
    losses = []
    for options in ({}, dict(subseq_len=16)):
        torch.manual_seed(3)
        losses.append(ours.induction_loss(model, prepend_bos=False, **options))
    assert losses[0] == losses[1]


def test_induction_loss_knows_its_limits(both):
    assert ours.induction_loss(both[1], subseq_len=5) > 0  # a vocabulary of 50, on the model's own device
    with pytest.raises(ValueError, match="subseq_len is 2 to 512"):
        ours.induction_loss(both[1], subseq_len=513)
    with pytest.raises(ValueError, match="no tokenizer with a BOS"):
        ours.induction_loss(HookedTransformer(GPT2_LIKE), subseq_len=5)


@pytest.mark.parametrize("truncate", [0, 1, 2, 100])
def test_evaluate_on_dataset(both, truncate):
    tokens = torch.randint(5, 50, (20, 12), generator=torch.Generator().manual_seed(0)).tolist()
    loader = DataLoader(datasets.Dataset.from_dict({"tokens": tokens}).with_format("torch"), batch_size=8)
    expected = theirs.evaluate_on_dataset(both[0], loader, truncate, device="cpu")
    assert ours.evaluate_on_dataset(both[1], loader, truncate) == pytest.approx(expected, rel=1e-5)


def test_evaluate_on_nothing(both):
    with pytest.raises(ValueError, match="no batch"):
        ours.evaluate_on_dataset(both[1], [])


@pytest.mark.parametrize("name", ["wiki", "owt", "pile", "code"])
def test_data_loaders_ask_for_the_same_and_give_the_same(both, asked, name):
    batches = []
    for module, model in zip((theirs, ours), both, strict=True):
        torch.manual_seed(0)
        loader = getattr(module, f"make_{name}_data_loader")(model.tokenizer, batch_size=3)
        batches.append([batch["tokens"] for batch in loader])
    assert asked[0] == asked[1]
    assert len(batches[0]) == len(batches[1]) > 0
    for expected, actual in zip(*batches, strict=True):
        assert actual.shape == (3, 1024) and torch.equal(actual, expected)


def test_evaluate(both, asked, monkeypatch, capsys):
    on_dataset = theirs.evaluate_on_dataset
    monkeypatch.setattr(theirs, "evaluate_on_dataset", lambda *a, **k: on_dataset(*a, **k | {"device": "cpu"}))
    results = []
    for module, model in zip((theirs, ours), both, strict=True):
        torch.manual_seed(0)
        results.append(module.evaluate(model, batch_size=1))  # every row: in any order
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert "pile" in capsys.readouterr().out
    with pytest.raises(ValueError, match="no tokenizer"):
        ours.evaluate(HookedTransformer(GPT2_LIKE))


# Indirect objects

IOI = dict(
    templates=["[A] [B] gave [OBJECT] to [B] at [LOCATION] [A]", "[B] [A] [LOCATION] [B] [A]"],
    names=["w05", "w06", "w07", "w08"],
    nouns={"OBJECT": ["w09", "w10"], "LOCATION": ["w11", "w12"]},
)


def test_ioi_items(both):
    tokenizer = both[1].tokenizer
    data = ours.IOIDataset(tokenizer, **IOI, num_samples=20, seed=0)
    again = ours.IOIDataset(tokenizer, **IOI, num_samples=20, seed=0)
    assert data.samples == again.samples and len(data) == 20
    assert len({sample["text"] for sample in data.samples}) > 5
    expected = theirs.IOIDataset(tokenizer, **IOI, num_samples=20, seed=0)
    expected.samples = data.samples
    for mine, yours in zip((data[i] for i in range(20)), (expected[i] for i in range(20)), strict=True):
        assert mine.keys() == yours.keys() and all(torch.equal(mine[key], yours[key]) for key in mine)
    assert ours.IOIDataset(tokenizer, **IOI, num_samples=1, prepend_bos=False)[0]["prompt"][0] != 1


def test_ioi_in_both_orders(both):
    data = ours.IOIDataset(both[1].tokenizer, **IOI, num_samples=6, symmetric=True, seed=0)
    for first, second in zip(data.samples[::2], data.samples[1::2], strict=True):
        assert (first["IO"], first["S"]) == (second["S"], second["IO"])
        exchanged = first["text"].replace(first["IO"][1:], "?").replace(first["S"][1:], first["IO"][1:])
        assert exchanged.replace("?", first["S"][1:]) == second["text"]
    assert len(ours.IOIDataset(both[1].tokenizer, **IOI, num_samples=3, symmetric=True)) == 3


def test_ioi_draws_from_the_global_generator_only_without_a_seed():
    random.seed(5)
    first = ours.IOIDataset(None, num_samples=5)
    random.seed(5)
    assert ours.IOIDataset(None, num_samples=5).samples == first.samples
    state = random.getstate()
    ours.IOIDataset(None, num_samples=5, seed=1)
    assert random.getstate() == state


def test_ioi_defaults_are_whole_sentences():
    for sample in ours.IOIDataset(None, num_samples=50, seed=0).samples:
        assert "[" not in sample["text"] and sample["text"].endswith(sample["IO"])
        assert sample["text"].count(sample["S"].strip()) == 2
    assert set(ours.IOIDataset.get_default_nouns()) == {"LOCATION", "OBJECT"}


def test_ioi_eval(both):
    data = ours.IOIDataset(both[1].tokenizer, **IOI, num_samples=21, seed=0)  # of two lengths: padded
    expected = theirs.ioi_eval(both[0], data, batch_size=4)
    assert ours.ioi_eval(both[1], data, batch_size=4) == pytest.approx(expected, rel=1e-4)
    assert 0 < expected["Accuracy"] < 1


def test_ioi_mistakes(both):
    with pytest.raises(ValueError, match="two different names"):
        ours.IOIDataset(None, names=["w05"])
    with pytest.raises(ValueError, match="do not differ"):  # words that this tokenizer does not know
        ours.ioi_eval(both[1], num_samples=2)
    with pytest.raises(ValueError, match="no tokenizer"):
        ours.ioi_eval(HookedTransformer(GPT2_LIKE))


# Multiple choice


def test_mmlu_questions(asked):
    assert list(ours.MMLU_SUBJECTS) == theirs.MMLU_SUBJECTS
    for options in (dict(subjects="anatomy"), dict(subjects=["virology", "anatomy"], num_samples=3, split="dev"), {}):
        expected = theirs.make_mmlu_data_loader(**options)
        n_asked = len(asked)
        assert ours.make_mmlu_data_loader(**options) == expected
        assert asked[n_asked:] == asked[:n_asked]
        asked.clear()
    with pytest.raises(ValueError, match=r"anatomi.*'anatomy'"):
        ours.make_mmlu_data_loader("anatomi")
    with pytest.raises(ValueError, match="num_samples"):
        ours.make_mmlu_data_loader("anatomy", num_samples=0)


def test_mmlu_eval(both, asked, monkeypatch):
    # Letters that this tokenizer knows.
    letters = dict(zip("ABCD", ("w07", "w08", "w09", "w10"), strict=True))
    for model in both:
        monkeypatch.setattr(model, "tokenizer", model.tokenizer)
        encode = type(model.tokenizer).encode
    monkeypatch.setattr(
        type(both[0].tokenizer),
        "encode",
        lambda self, text, **options: encode(self, letters.get(text.strip(), text), **options),
    )
    options = dict(subjects=["anatomy", "virology"])
    expected = theirs.mmlu_eval(both[0], **options)
    assert ours.mmlu_eval(both[1], **options) == expected
    assert 0 < expected["num_correct"] < expected["num_total"] == 16


def test_data_sets_are_asked_for_by_name(monkeypatch, both):
    monkeypatch.setattr("tl_widgets.environment.is_library_available", lambda name: False)
    with pytest.raises(ImportError, match="make_pile_data_loader needs datasets"):
        ours.make_pile_data_loader(both[1].tokenizer)
