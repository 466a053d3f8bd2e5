"""Attributions and the lens on the real model: sums that have to come out, and a story that has to be there."""

from __future__ import annotations

import pytest
import torch

from tl_widgets import direct_logit_attribution, head_scores, logit_lens, top_neurons

PROMPT = "When Mary and John went to the store, John gave a drink to"


@pytest.fixture(params=["raw", "processed"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("unit", ["component", "head", "neuron"])
def test_the_parts_sum_to_the_logit(model, unit):
    answer = model.to_single_token(" Mary")
    result = direct_logit_attribution(model, PROMPT, " Mary", unit=unit)
    with torch.no_grad():
        logit = model(PROMPT)[0, -1, answer] - model.b_U[answer]
    assert result.attribution.sum().item() == pytest.approx(logit.item(), abs=1e-3)
    difference = direct_logit_attribution(model, PROMPT, " Mary", " John", unit=unit)
    with torch.no_grad():
        logits = model(PROMPT)[0, -1] - model.b_U
    expected = logits[answer] - logits[model.to_single_token(" John")]
    assert difference.attribution.sum().item() == pytest.approx(expected.item(), abs=1e-3)


def test_the_lens_ends_on_the_model_s_own_output(model):
    lens = logit_lens(model, PROMPT, answers=" Mary")
    with torch.no_grad():
        probabilities = model(PROMPT)[0].softmax(-1)
    answer = model.to_single_token(" Mary")
    torch.testing.assert_close(lens.probability.values[-1, 0, :, 0], probabilities[:, answer], atol=1e-5, rtol=1e-4)
    assert lens.top()[0] == (" Mary", pytest.approx(0.84, abs=0.01))
    ranks = lens.rank.values[:, 0, -1, 0]
    assert ranks[-1] == 0 and ranks[0] > 100  # the answer is found on the way up


def test_what_one_layer_s_neurons_do_is_part_of_what_all_do(processed):
    one = top_neurons(processed, PROMPT, by="attribution", answer_tokens=" Mary", layer=29)
    everything = top_neurons(processed, PROMPT, by="attribution", answer_tokens=" Mary")
    torch.testing.assert_close(everything["L29"].values, one["L29"].values)
    whole = direct_logit_attribution(processed, PROMPT, " Mary")
    assert one.values.sum().item() == pytest.approx(whole["29_mlp_out", 0], abs=1e-3)


def test_induction_heads_show_on_repeated_words(processed):
    words = " apple river seven cloud music paper stone green"
    scores = head_scores(processed, words * 3)
    assert scores["induction"].top(1)[0][1] > 0.5
    assert scores["previous_token"].top(1)[0][1] > 0.5
