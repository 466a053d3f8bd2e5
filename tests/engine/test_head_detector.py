"""Head detection, against the oracle's."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformer_lens import head_detector as theirs
from transformers import AutoTokenizer

from tests.engine.oracle import GPT2_LIKE, LLAMA_LIKE, pair
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets.analysis import head_detector as ours

PROMPT = "w05 w06 w07 w05 w06 w05"
PROMPTS = [PROMPT, "w09 w09 w10"]
OPTIONS = list(itertools.product(("mul", "abs"), (True, False), (True, False)))
CLOSE = dict(atol=1e-6, rtol=1e-5)


@pytest.fixture(scope="module", params=[GPT2_LIKE, LLAMA_LIKE | dict(n_key_value_heads=2)], ids=["gpt2", "llama"])
def both(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("words")
    fifty_words().save_pretrained(path)
    models = pair(request.param)
    for model in models:
        model.set_tokenizer(AutoTokenizer.from_pretrained(path))
    return models


def scores(both, *args, **options):
    expected, actual = (
        module.detect_head(model, *args, **options) for module, model in zip((theirs, ours), both, strict=True)
    )
    torch.testing.assert_close(actual, expected, **CLOSE)
    return actual


@pytest.mark.parametrize("measure, bos, current", OPTIONS)
@pytest.mark.parametrize("pattern", ours.HEAD_NAMES)
@pytest.mark.parametrize("seq", [PROMPT, PROMPTS], ids=["one", "several"])
def test_scores(both, seq, pattern, measure, bos, current):
    options = dict(exclude_bos=bos, exclude_current_token=current, error_measure=measure)
    assert scores(both, seq, pattern, **options).shape == (2, 4)


@pytest.mark.parametrize("heads", [[(0, 1), (1, 2)], {0: [1], 1: [2, 3]}, []], ids=str)
def test_only_some_heads(both, heads):
    some = scores(both, PROMPT, "previous_token_head", heads=heads)
    everything = scores(both, PROMPT, "previous_token_head")
    asked = some != -1
    assert asked.sum() == (3 if isinstance(heads, dict) else len(heads))
    assert torch.equal(some[asked], everything[asked])


@pytest.mark.filterwarnings("ignore:A pattern with values other than 0 and 1")
def test_a_pattern_of_ones_own(both):
    generator = torch.Generator().manual_seed(0)
    for own in (torch.rand(7, 7, generator=generator).tril(), torch.ones(7, 7).tril().int(), torch.eye(7)):
        for measure in ours.ERROR_MEASURES:
            scores(both, PROMPT, own, error_measure=measure)


def test_a_cache_saves_the_run(both):
    expected = scores(both, PROMPT, "induction_head")
    _, cache = both[1].run_with_cache(PROMPT)
    ran = []
    with both[1].hooks([("hook_embed", lambda x, hook: ran.append(1))]):
        for given in (cache, both[1].run_with_cache(PROMPT)[1].remove_batch_dim()):
            before = len(ran)
            torch.testing.assert_close(
                ours.detect_head(both[1], PROMPT, "induction_head", cache=given), expected, **CLOSE
            )
            assert len(ran) == before


def test_patterns_and_names(capsys):
    tokens = torch.tensor([[1, 5, 6, 5, 6, 7, 5]])
    for name in ours.HEAD_NAMES:
        pattern = f"get_{name}_detection_pattern"
        assert torch.equal(getattr(ours, pattern)(tokens), getattr(theirs, pattern)(tokens))
    ours.get_supported_heads()
    printed = capsys.readouterr().out
    theirs.get_supported_heads()
    assert printed == capsys.readouterr().out


@pytest.mark.parametrize("measure, bos, current", OPTIONS)
def test_one_score(measure, bos, current):
    generator = torch.Generator().manual_seed(1)
    attention, pattern = torch.rand(5, 5, generator=generator).tril(), torch.ones(5, 5).tril(-2)
    options = dict(exclude_bos=bos, exclude_current_token=current, error_measure=measure)
    args = (attention, pattern)
    expected = theirs.compute_head_attention_similarity_score(*args, **options)
    actual = ours.compute_head_attention_similarity_score(*args, **options)
    assert actual == pytest.approx(expected, abs=1e-7)


MISTAKES = {
    "unknown pattern": (PROMPT, "inductive_head", {}, "'induction_head'"),
    "no pattern": (PROMPT, 5, {}, "tensor or one of"),
    "wrong shape": (PROMPT, torch.zeros(3, 3), {}, r"\[7, 7\].*not \[3, 3\]"),
    "sees the future": (PROMPT, torch.ones(7, 7), {}, "above its diagonal"),
    "unknown measure": (PROMPT, "induction_head", dict(error_measure="sum"), "error_measure 'sum'"),
    "empty": ("", "induction_head", {}, "1 tokens"),
    "too long": ("w05 " * 40, "induction_head", {}, "41 tokens"),
    "no prompt": ([], "induction_head", {}, "at least one"),
    "no text": (torch.tensor([[1, 5]]), "induction_head", {}, "list of strings"),
    "no such head": (PROMPT, "induction_head", dict(heads=[(0, 4)]), r"no head \(0, 4\)"),
}


@pytest.mark.parametrize("seq, pattern, options, message", MISTAKES.values(), ids=MISTAKES.keys())
def test_mistakes_are_what_the_oracle_raises_too(both, seq, pattern, options, message):
    with pytest.raises(AssertionError, match=message) as raised:
        ours.detect_head(both[1], seq, pattern, **options)
    assert isinstance(raised.value, (ValueError, TypeError))
    assert not any(point.has_hooks() for point in both[1].hook_points())


def test_mistakes_with_a_cache_and_in_scoring(both):
    _, cache = both[1].run_with_cache("w05 w06")
    with pytest.raises(ValueError, match="seq has 7 tokens"):
        ours.detect_head(both[1], PROMPT, "induction_head", cache=cache)
    with pytest.raises(ValueError, match="one prompt"):
        ours.detect_head(both[1], PROMPTS, "induction_head", cache=cache)
    options = dict(exclude_bos=False, exclude_current_token=False, error_measure="mul")
    with pytest.raises(AssertionError, match=r"square.*\[3, 4\]"):
        ours.compute_head_attention_similarity_score(torch.ones(3, 4), torch.eye(4), **options)
    with pytest.warns(UserWarning, match="0 and 1"):
        ours.detect_head(both[1], PROMPT, torch.full((7, 7), 0.5).tril())


def test_without_a_tokenizer():
    with pytest.raises(ValueError, match="no tokenizer"):
        ours.detect_head(HookedTransformer(GPT2_LIKE), PROMPT, "induction_head")
