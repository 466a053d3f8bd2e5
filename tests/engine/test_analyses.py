"""Logit lens, scores and entropies of heads, norms and neurons, each beside what it means written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE
from tests.engine.words import fifty_words
from tl_widgets import ActivationCache, HookedTransformer
from tl_widgets.analysis import (
    LogitLens,
    attention_entropy,
    component_norms,
    direct_logit_attribution,
    head_scores,
    logit_lens,
    top_neurons,
)
from tl_widgets.math import Slice

TOKENS = torch.tensor([[3, 1, 4, 1, 5, 9, 3, 1], [2, 7, 1, 8, 2, 8, 1, 8]])
PADDED = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1], [1] * 8])


def build(config=GPT2_LIKE):
    torch.manual_seed(5)
    model = HookedTransformer(dict(config))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.2 * torch.randn_like(parameter)
    return model


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def cache(model):
    return model.run_with_cache(TOKENS)[1]


@pytest.fixture(scope="module")
def toy():
    return HookedTransformer.from_pretrained("toy-induction")


# Logit lens


@pytest.mark.parametrize("name", ["gpt2-like", "soft caps", "llama-like grouped", "no norm", "shortformer", "experts"])
def test_the_lens_reads_every_layer_as_the_model_reads_its_last(name):
    model = build(CONFIGS[name])
    lens = logit_lens(model, TOKENS, answers=[7, 9], k=3, incl_mid=True)
    _, cache = model.run_with_cache(TOKENS)
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert lens.labels == labels and lens.entropy.axes == ("layer", "batch", "pos")
    with torch.no_grad():
        log_probs = model.to_logits(model.ln_final(stack.flatten(0, 1))).log_softmax(-1).unflatten(0, stack.shape[:2])
    torch.testing.assert_close(log_probs[-1], model(TOKENS).log_softmax(-1))
    p = log_probs.exp()
    torch.testing.assert_close(lens.entropy.values, torch.special.entr(p).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(lens.kl.values, (p[-1] * (log_probs[-1] - log_probs)).sum(-1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(lens.probability.values, p[..., [7, 9]])
    ranks = (p[..., None, :] > p[..., [7, 9], None]).sum(-1)
    assert torch.equal(lens.rank.values, ranks)
    torch.testing.assert_close(lens.top_probabilities, p.topk(3).values)
    torch.testing.assert_close(p.gather(-1, lens.top_tokens), lens.top_probabilities)
    assert float(lens.kl.values[-1].abs().max()) < 1e-6


@pytest.mark.parametrize("pos_slice", [None, -1, (2, 5), [0, 3]], ids=str)
@pytest.mark.parametrize("lazy", [False, True], ids=["full", "lazy"])
def test_the_lens_at_some_positions_of_a_cache(model, pos_slice, lazy):
    whole = logit_lens(model, TOKENS)
    cache = model.run_with_cache(TOKENS, lazy=lazy)[1]
    lens = logit_lens(model, cache=cache, pos_slice=pos_slice)
    picked = {None: slice(None), -1: -1, (2, 5): slice(2, 5)}.get(pos_slice if not isinstance(pos_slice, list) else 0)
    picked = [0, 3] if isinstance(pos_slice, list) else picked
    torch.testing.assert_close(lens.entropy.values, whole.entropy.values[:, :, picked], atol=1e-5, rtol=1e-4)
    assert lens.entropy.axes == (("layer", "batch") if pos_slice == -1 else ("layer", "batch", "pos"))
    one = logit_lens(model, cache=model.run_with_cache(TOKENS[:1], remove_batch_dim=True)[1], pos_slice=pos_slice)
    torch.testing.assert_close(one.entropy.values, whole.entropy.values[:, 0, picked], atol=1e-5, rtol=1e-4)


def test_the_lens_goes_through_the_vocabulary_in_pieces(model, monkeypatch):
    whole = logit_lens(model, TOKENS, answers=7)
    monkeypatch.setattr("tl_widgets.analysis.lens._AT_A_TIME", 3 * model.cfg.d_vocab)
    pieces = logit_lens(model, TOKENS, answers=7)
    for name in ("top_tokens", "top_probabilities"):
        torch.testing.assert_close(getattr(pieces, name), getattr(whole, name))
    for name in ("entropy", "kl", "probability"):
        torch.testing.assert_close(getattr(pieces, name).values, getattr(whole, name).values)


def test_the_lens_for_people(toy):
    lens = logit_lens(toy, "red dog big house red dog big", answers=["house", "red"])
    assert isinstance(lens, LogitLens) and lens.top()[0][0].strip() == "house"
    assert lens.top(layer="final_post") == lens.top(5, -1, -1) == lens.top() and len(lens.top(2)) == 2
    assert lens["final_post"].labels == ["final_post"]
    assert lens.rank["final_post"][0, -1, 0] == 0
    assert "final_post" in repr(lens) and "house" in repr(lens)
    table = lens.to_dataframe()
    assert len(table) == 3 * 8 and table["top token"].iloc[-1].strip() == "house"
    assert table["rank of 'house'"].iloc[-1] == 0
    for by in ("top probability", "entropy", "kl", "probability", "rank"):
        figure = lens.plot(by)
        assert len(figure.axes[0].texts) == 3 * 8
    for wrong, message in [
        (lambda: lens.plot("kll"), "'kl'"),
        (lambda: lens.top(layer="finalpost"), "'final_post'"),
        (lambda: lens.top(layer=9), "no layer 9"),
        (lambda: lens.top("final_post"), "layer=$|layer=[.]"),
        (lambda: lens[99], "no layer 99"),
        (lambda: lens["0_pre", 2], "selected by layer"),
        (lambda: logit_lens(toy, "red dog", answers="no such word"), "token"),
        (lambda: logit_lens(toy, "red dog", k=0), "k is a whole number from 1 to"),
        (lambda: logit_lens(toy, "red dog", k=2.5), "k is a whole number from 1 to"),
        (lambda: logit_lens(toy, "red dog", answers=[5.7]), "whole number, not 5.7"),
        (lambda: logit_lens(toy, "red dog", answers=5.7), "a list of tokens, not 5.7"),
        (lambda: logit_lens(toy, "red dog", answers=[True]), "whole number, not True"),
        (lambda: logit_lens(toy), "neither is given"),
        (lambda: logit_lens(toy, "red", cache=object()), "both is given"),
    ]:
        with pytest.raises((ValueError, KeyError, AssertionError), match=message):
            wrong()
    for answer in (np.int64(5), np.array([5]), [torch.tensor(5)]):
        assert logit_lens(toy, "red dog", answers=answer).rank.values.shape[-1] == 1


def test_the_lens_on_a_small_vocabulary():
    model = HookedTransformer(GPT2_LIKE | dict(d_vocab=7))
    assert logit_lens(model, [3, 1]).top_tokens.shape[-1] == 7


def test_the_lens_at_the_last_token_of_padded_prompts(model):
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])
    _, cache = model.run_with_cache(TOKENS, attention_mask=mask)
    whole, last = logit_lens(model, cache=cache), logit_lens(model, cache=cache, pos_slice=-1)
    assert whole.top() == whole.top(pos=4) and whole.top(example=1) == whole.top(example=1, pos=7)
    assert whole[-2:].top(pos=-2) == whole.top(pos=3)
    assert str(whole.top(3)[0][0]) in repr(whole).splitlines()[-1]
    for example, pos in enumerate((4, 7)):
        torch.testing.assert_close(last.entropy.values[:, example], whole.entropy.values[:, example, pos])
    assert last.entropy.axes == ("layer", "batch")
    assert "LogitLens" in repr(logit_lens(model, cache=model.run_with_cache(TOKENS, attention_mask=PADDED)[1]))


# Heads


def written_out(cache, wanted):
    """Mean attention on ``wanted(tokens, query) -> keys``, over queries that have such keys, by plain loops."""
    cfg = cache.model.cfg
    scores = torch.zeros(cfg.n_layers, cfg.n_heads)
    n = 0
    for example, row in enumerate(cache.tokens.tolist()):
        for query in range(len(row)):
            keys = wanted(row, query)
            if keys:
                n += 1
                for layer in range(cfg.n_layers):
                    scores[layer] += cache["pattern", layer][example, :, query, keys].sum(-1)
    return scores / n


def test_scores_are_what_they_say(model, cache):
    scores = head_scores(model, cache=cache)
    for kind, wanted in {
        "previous_token": lambda row, q: [q - 1] if q else [],
        "duplicate_token": lambda row, q: [k for k in range(q) if row[k] == row[q]],
        "induction": lambda row, q: [k + 1 for k in range(q) if row[k] == row[q]],
    }.items():
        torch.testing.assert_close(scores[kind].values, written_out(cache, wanted))
    lazy = head_scores(model, TOKENS)
    torch.testing.assert_close(lazy.values, scores.values)


def test_scores_find_the_toy_s_heads(toy):
    words = "red dog big house small cat"
    scores = head_scores(toy, f"{words} {words}")
    assert scores["induction"].top(1)[0][0].startswith("L1") and scores["induction"].top(1)[0][1] > 0.9
    assert scores["previous_token"].top(1)[0][0].startswith("L0")
    assert scores["induction", "L1"].axes == ("head",)
    assert scores.to_dataframe().shape == (3 * 2 * toy.cfg.n_heads, 4)
    scores.plot()


def test_patterns_of_one_s_own(model, cache):
    first = torch.zeros(8, 8)
    first[:, 0] = 1
    scores = head_scores(model, cache=cache, patterns={"first": first, "itself": lambda tokens: torch.eye(8)})
    torch.testing.assert_close(scores["first"].values[1], cache["pattern", 1][..., 0].mean((0, 2)))
    assert list(scores.labels_of("kind")) == ["previous_token", "duplicate_token", "induction", "first", "itself"]
    for wrong, message in [
        (lambda: head_scores(model, cache=cache, patterns={"odd": torch.zeros(3, 3)}), r"'odd' is \[3, 3\]"),
        (lambda: head_scores(model, cache=model.run_with_cache(TOKENS, pos_slice=-1)[1]), "all 8 positions"),
    ]:
        with pytest.raises(ValueError, match=message):
            wrong()


def test_padding_counts_neither_as_query_nor_as_key(model):
    scores = head_scores(model, cache=model.run_with_cache(TOKENS, attention_mask=PADDED)[1])
    alone = [model.run_with_cache(TOKENS[:1, 2:])[1], model.run_with_cache(TOKENS[1:])[1]]
    n = [5, 7]  # queries with a token before them
    expected = sum(m * head_scores(model, cache=c)["previous_token"].values for m, c in zip(n, alone, strict=True)) / 12
    torch.testing.assert_close(scores["previous_token"].values, expected)
    entropy = attention_entropy(model, cache=model.run_with_cache(TOKENS, attention_mask=PADDED)[1])
    n = [6, 8]
    expected = sum(m * attention_entropy(model, cache=c).values for m, c in zip(n, alone, strict=True)) / 14
    torch.testing.assert_close(entropy.values, expected)


def of_some_positions(model, pos_slice, **options):
    """A cache that was made with `pos_slice`, and knows it."""
    _, cache = model.run_with_cache(TOKENS, pos_slice=pos_slice, **options)
    return ActivationCache(dict(cache), model, tokens=cache.tokens, mask=cache.mask, pos_slice=pos_slice)


@pytest.mark.parametrize("pos_slice", [(3, 7), [6, 0], Slice(3)], ids=str)
def test_entropy_at_some_positions_counts_no_padding(model, pos_slice):
    cache = of_some_positions(model, pos_slice, attention_mask=PADDED)
    _, whole = model.run_with_cache(TOKENS, attention_mask=PADDED)
    real = Slice.unwrap(pos_slice).apply(PADDED, dim=1).flatten().bool()
    for layer in (0, 1):
        entropy = torch.special.entr(whole["pattern", layer]).sum(-1)
        picked = Slice.unwrap(pos_slice).apply(entropy, dim=2).movedim(1, -1).reshape(-1, 4)
        torch.testing.assert_close(attention_entropy(model, cache=cache).values[layer], picked[real].mean(0))


def test_patterns_of_tokens_know_nothing_of_padding(model):
    tokens = torch.tensor([[3, 3, 3, 5, 6, 3, 5, 6]])  # 3 pads, and starts the prompt
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1]])
    scores = head_scores(model, cache=model.run_with_cache(tokens, attention_mask=mask)[1])
    torch.testing.assert_close(scores.values, head_scores(model, tokens[:, 2:]).values)


def test_a_prompt_without_repeats_has_no_induction_score(model):
    scores = head_scores(model, [3, 1, 4])
    assert scores["induction"].values.isnan().all() and not scores["previous_token"].values.isnan().any()
    assert scores["induction"].top() == []


def test_entropy(model, cache):
    entropy = attention_entropy(model, cache=cache)
    pattern = cache["pattern", 1][:, 2]
    assert entropy["L1H2"] == pytest.approx(torch.special.entr(pattern).sum(-1).mean().item(), abs=1e-5)
    assert 0 <= entropy["L1H2"] <= math.log(8)
    torch.testing.assert_close(attention_entropy(model, TOKENS).values, entropy.values)


# Norms and neurons


@pytest.mark.parametrize("name", ["gpt2-like", "llama-like grouped", "post-norms", "attention only", "experts"])
@pytest.mark.parametrize("lazy", [False, True], ids=["full", "lazy"])
def test_norms_of_what_is_written(name, lazy):
    model = build(CONFIGS[name])
    _, cache = model.run_with_cache(TOKENS, lazy=lazy)
    norms = component_norms(model, cache=cache)
    torch.testing.assert_close(norms["1_attn_out"].values, cache["attn_out", 1].norm(dim=-1))
    heads = component_norms(model, cache=cache, unit="head")
    stack = cache.stack_head_results(layer=-1)
    torch.testing.assert_close(heads.values.flatten(0, 1), stack.norm(dim=-1), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(component_norms(model, TOKENS, unit="head").values, heads.values, atol=1e-4, rtol=1e-4)
    with pytest.raises(KeyError, match="'head'"):
        component_norms(model, TOKENS, unit="heads")


@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE, CONFIGS["post-norms"]], ids=["gpt2", "llama", "post-norms"])
def test_neurons(config):
    model = build(config)
    _, cache = model.run_with_cache(TOKENS)
    active = top_neurons(model, TOKENS)
    torch.testing.assert_close(active.values[1], cache["post", 1][:, -1].mean(0))
    adds = top_neurons(model, TOKENS, by="attribution", answer_tokens=7, incorrect_tokens=9)
    whole = direct_logit_attribution(model, TOKENS, 7, 9, unit="neuron").attribution
    torch.testing.assert_close(adds.values.flatten(), whole[:-1].mean(1), atol=1e-5, rtol=1e-4)
    one = top_neurons(model, TOKENS, by="attribution", answer_tokens=7, incorrect_tokens=9, layer=-1)
    torch.testing.assert_close(one.values[0], adds.values[1])
    name, value = adds.top(1, by="size")[0]
    assert adds[name] == value and abs(value) == adds.values.abs().max()
    assert len(adds.plot(k=5).axes[0].patches) == 5


@pytest.mark.parametrize("options", [{}, dict(by="attribution", answer_tokens=7)], ids=["activation", "attribution"])
def test_neurons_at_tokens_not_at_padding(model, options):
    mask = torch.tensor([[1, 1, 1, 1, 1, 0, 0, 0], [1] * 8])
    _, cache = model.run_with_cache(TOKENS, attention_mask=mask)
    alone = [model.run_with_cache(TOKENS[:1, :5])[1], model.run_with_cache(TOKENS[1:])[1]]
    for pos, weights in ((-1, [1, 1]), (None, [5, 8])):
        expected = sum(
            n * top_neurons(model, cache=c, pos=pos, **options).values for n, c in zip(weights, alone, strict=True)
        )
        actual = top_neurons(model, cache=cache, pos=pos, **options).values
        torch.testing.assert_close(actual, expected / sum(weights), atol=1e-5, rtol=1e-4)


def test_neurons_that_are_not_there():
    for wrong, message in [
        (lambda: top_neurons(build(CONFIGS["attention only"]), TOKENS), "attention-only"),
        (lambda: top_neurons(build(CONFIGS["experts"]), TOKENS), "experts"),
        (lambda: top_neurons(build(), TOKENS, by="attributoin"), "'attribution'"),
        (lambda: top_neurons(build(), TOKENS, by="attribution"), "answer_tokens="),
        (lambda: top_neurons(build(), TOKENS, answer_tokens=3), "answer_tokens="),
        (lambda: top_neurons(build(), TOKENS, layer=2), "-2 to 1"),
    ]:
        with pytest.raises((ValueError, KeyError), match=message):
            wrong()


def test_attributions_are_selected_by_label_and_taken_on(toy):
    result = direct_logit_attribution(toy, "red dog big house red dog big", "house", "red", unit="head")
    assert result["L1H0"].axes == ("batch",) and result.top(1)[0][0].startswith("L1")
    name, value = result.top(1)[0]
    assert result[name, 0] == pytest.approx(value)
    table = result.to_dataframe()
    assert list(table) == ["component", "batch", "adds to the logit difference"]
    result.plot("heads")
    everywhere = direct_logit_attribution(toy, "red dog big", "house", pos=None)
    assert everywhere.axes == ("component", "batch", "pos") and len(everywhere.labels_of("pos")) == 4
    assert everywhere.labels_of("pos")[1].strip() == "red"
    everywhere.plot()


def test_texts_of_positions():
    model = HookedTransformer(GPT2_LIKE | dict(d_vocab=-1), tokenizer=fifty_words())
    norms = component_norms(model, "w07 w09")
    assert norms.labels_of("pos") == ["w01", "w07", "w09"]
    assert component_norms(model, ["w07 w09", "w05 w06"]).labels_of("pos") == ["0", "1", "2"]


def test_texts_of_positions_of_a_cache_of_some(tmp_path):
    model = HookedTransformer(GPT2_LIKE | dict(d_vocab=-1), tokenizer=fifty_words())
    _, run = model.run_with_cache("w07 w09 w05 w06", pos_slice=(2, 4))
    cache = ActivationCache(dict(run), model, tokens=run.tokens, pos_slice=(2, 4))
    cache.save(tmp_path / "cache")
    for each in (cache, ActivationCache.load(tmp_path / "cache", model), cache.apply_slice_to_batch_dim((0, 1))):
        assert component_norms(model, cache=each).labels_of("pos") == ["w09", "w05"]
        assert logit_lens(model, cache=each, pos_slice=[1]).entropy.labels_of("pos") == ["w05"]
