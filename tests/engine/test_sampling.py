"""Sampling, against the oracle's: the probabilities are compared, so that nothing depends on luck."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformer_lens.utils as theirs

from tl_widgets import utils as ours
from tl_widgets.errors import BadInput
from tl_widgets.text.sampling import next_token_probabilities

CLOSE = dict(atol=1e-4, rtol=1e-4)


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **CLOSE)


LOGITS = torch.tensor([[1.0, 3.0, 2.0, 0.0, -1.0], [0.5, 0.5, -2.0, 4.0, 1.0]])
BEFORE = torch.tensor([[1, 1, 2, 4], [3, 0, 0, 0]])
OPTIONS = [
    {}, dict(top_k=1), dict(top_k=2), dict(top_k=99), dict(top_p=0.3), dict(top_p=0.65), dict(top_p=0.9),
    dict(top_p=1.0), dict(temperature=0.5), dict(temperature=2.0), dict(top_p=0.8, temperature=2.0),
    dict(top_k=3, temperature=0.7), dict(top_k=3, top_p=0.1), dict(freq_penalty=1.0, tokens=BEFORE),
    dict(repetition_penalty=2.0, tokens=BEFORE), dict(freq_penalty=0.5, temperature=2.0, tokens=BEFORE),
    dict(repetition_penalty=1.5, freq_penalty=1.0, temperature=0.5, top_k=3, tokens=BEFORE),
]  # fmt: skip


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: str({k: v for k, v in o.items() if k != "tokens"}))
def test_the_oracle_draws_the_same_tokens_from_the_same_seed(options):
    n = 500
    many = dict(options)
    if "tokens" in many:
        many["tokens"] = BEFORE.repeat(n, 1)
    drawn = []
    for module in (ours, theirs):
        torch.manual_seed(0)
        drawn.append(module.sample_logits(LOGITS.repeat(n, 1), **many))
    assert drawn[0].shape == (2 * n,) and drawn[0].dtype == torch.int64
    assert torch.equal(*drawn)
    probabilities = next_token_probabilities(LOGITS, **options)
    close(probabilities.sum(-1), torch.ones(2))
    # Nothing is drawn that has no probability, and what has some is drawn.
    for row in (0, 1):
        possible = set(probabilities[row].gt(1e-2).nonzero()[:, 0].tolist())
        seen = set(drawn[0][row::2].tolist())
        assert possible <= seen <= set(probabilities[row].nonzero()[:, 0].tolist())


def test_probabilities_by_hand():
    logits = torch.tensor([0.5, 0.25, 0.125, 0.125]).log()
    for options, expected in (
        ({}, [0.5, 0.25, 0.125, 0.125]),
        (dict(top_k=2), [2 / 3, 1 / 3, 0, 0]),
        (dict(top_k=3), [0.5, 0.25, 0.125, 0.125]),  # the third ties with the fourth
        (dict(top_p=0.4), [1, 0, 0, 0]),
        (dict(top_p=0.6), [2 / 3, 1 / 3, 0, 0]),
        (dict(temperature=0.5), [16 / 22, 4 / 22, 1 / 22, 1 / 22]),
        (dict(freq_penalty=float(np.log(2)), tokens=torch.tensor([0, 0, 1])), [0.25, 0.25, 0.25, 0.25]),
        (dict(repetition_penalty=2.0, tokens=torch.tensor([0])), [1 / 3, 1 / 3, 1 / 6, 1 / 6]),
    ):
        if "repetition_penalty" in options:  # the logit log 0.5 doubles, so 0.5 becomes 0.25
            expected = [e / sum((0.25, 0.25, 0.125, 0.125)) for e in (0.25, 0.25, 0.125, 0.125)]
        close(next_token_probabilities(logits, **options), torch.tensor(expected, dtype=torch.float32))


def test_greedy():
    assert ours.sample_logits(LOGITS, temperature=0.0).tolist() == [1, 3]
    assert ours.sample_logits(LOGITS[0], temperature=0.0).item() == 1
    for options in (dict(repetition_penalty=5.0), dict(freq_penalty=5.0)):
        mine, yours = (m.sample_logits(LOGITS, temperature=0.0, tokens=BEFORE, **options) for m in (ours, theirs))
        assert torch.equal(mine, yours)
    assert ours.sample_logits(LOGITS[0]).shape == ()


def test_half_precision_logits():
    close(next_token_probabilities(LOGITS.bfloat16(), top_p=0.9), next_token_probabilities(LOGITS, top_p=0.9))


@pytest.mark.parametrize(
    "mistake, message",
    [
        (dict(top_k=0), "top_k is at least 1"),
        (dict(top_p=0.0), "top_p is in"),
        (dict(top_p=1.5), "top_p is in"),
        (dict(temperature=-1.0), "temperature is 0"),
        (dict(repetition_penalty=0.0), "repetition_penalty is above 0"),
        (dict(freq_penalty=-1.0, tokens=BEFORE), "freq_penalty is 0"),
        (dict(freq_penalty=1.0), "pass tokens="),
        (dict(repetition_penalty=2.0), "pass tokens="),
        (dict(freq_penalty=1.0, tokens=BEFORE[:1]), "does not go with"),
    ],
)
def test_options_that_make_no_sense(mistake, message):
    with pytest.raises(AssertionError, match=message):
        ours.sample_logits(LOGITS, **mistake)
    with pytest.raises(BadInput, match="greedy"):
        next_token_probabilities(LOGITS, temperature=0.0)
