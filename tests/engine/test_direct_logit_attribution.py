"""Direct logit attribution: against the oracle where that is right, and summing to the logits everywhere."""

from __future__ import annotations

import pytest
import torch
from transformer_lens.tools.analysis import direct_logit_attribution as theirs_of

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tests.engine.test_cache_sums import MODELS, model_of
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets.analysis import direct_logit_attribution
from tl_widgets.math import Slice

TOKENS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=2e-4, rtol=2e-4)
RIGHT, WRONG = torch.tensor([3, 4]), torch.tensor([7, 8])


@pytest.mark.parametrize("unit", ["component", "layer", "head"])
@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2-like", "llama-like"])
@torch.no_grad()
def test_folded_models_agree_with_the_oracle(config, unit):
    theirs, ours = pair(config | dict(normalization_type="LNPre" if config is GPT2_LIKE else "RMSPre"))
    for answer, pos in ((dict(answer_tokens=3), None), (dict(answer_tokens=RIGHT, incorrect_tokens=WRONG), -1)):
        for where in (pos, (1, 3), [0, -1]) if isinstance(answer["answer_tokens"], int) else (pos,):
            expected = theirs_of(theirs, TOKENS, **answer, unit=unit, pos=where)
            result = direct_logit_attribution(ours, TOKENS, **answer, unit=unit, pos=where)
            torch.testing.assert_close(result.attribution, expected.attribution, **CLOSE)
            assert (result.labels, result.unit) == (expected.labels, expected.unit)
            for (name, value), (their_name, their_value) in zip(result.top(3), expected.top(3), strict=True):
                assert name == their_name and value == pytest.approx(their_value, abs=1e-3)


@pytest.mark.parametrize("name", sorted(MODELS))
@torch.no_grad()
def test_14_parts_sum_to_the_logits_of_every_model_unfolded_or_not(name):
    model = model_of(name)
    cap = model.cfg.output_logits_soft_cap
    logits = model(TOKENS)
    logits = cap * torch.atanh(logits / cap) if cap > 0 else logits
    bias = getattr(model.ln_final, "b", None)
    constants = model.b_U if bias is None else model.b_U + bias @ model.W_U
    logits = logits - constants
    has_neurons = not model.cfg.attn_only and not model.cfg.num_experts
    right, wrong = torch.randint(0, 50, (2, 2, 6), generator=torch.Generator().manual_seed(4))
    for unit in ("component", "head", *(["neuron"] if has_neurons else [])):
        result = direct_logit_attribution(model, TOKENS, 5, unit=unit)
        torch.testing.assert_close(result.attribution.sum(0), logits[:, -1, 5], **CLOSE)
        result = direct_logit_attribution(model, TOKENS, RIGHT, WRONG, unit=unit, pos=None)
        per_prompt = logits.gather(-1, RIGHT.view(2, 1, 1).expand(2, 6, 1)) - logits.gather(
            -1, WRONG.view(2, 1, 1).expand(2, 6, 1)
        )
        torch.testing.assert_close(result.attribution.sum(0), per_prompt[..., 0], **CLOSE)
        result = direct_logit_attribution(model, TOKENS, right, wrong, unit=unit, pos=None)
        each = logits.gather(-1, right[..., None]) - logits.gather(-1, wrong[..., None])
        torch.testing.assert_close(result.attribution.sum(0), each[..., 0], **CLOSE)
        assert len(set(result.labels)) == len(result.attribution)
    layers = direct_logit_attribution(model, TOKENS, 5, unit="layer")
    torch.testing.assert_close(layers.attribution[-1], logits[:, -1, 5], **CLOSE)


@pytest.mark.parametrize("options", [{}, dict(remove_batch_dim=True), dict(lazy=True)], ids=str)
@torch.no_grad()
def test_neurons_one_by_one(options):
    model = model_of("post-norms, LN")
    _, cache = model.run_with_cache(TOKENS[:1], **options)
    direction = (model.W_U[:, 3] - model.W_U[:, 7]) * model.ln_final.w
    stack, labels = cache.stack_neuron_results(
        -1, pos_slice=-1, apply_ln=True, project_output_onto=direction, incl_remainder=True, return_labels=True
    )
    result = direct_logit_attribution(model, None, 3, 7, unit="neuron", cache=cache)
    torch.testing.assert_close(result.attribution, stack, **CLOSE)
    assert result.labels == labels
    last = direct_logit_attribution(model, None, 3, 7, unit="neuron", cache=cache, layer=-1)
    torch.testing.assert_close(last.attribution[:-1], stack[64:128], **CLOSE)
    torch.testing.assert_close(last.attribution.sum(0), stack.sum(0), **CLOSE)
    assert last.labels[0] == "L1N0" and last.labels[-1] == "remainder"


def test_strings_and_caches():
    model = HookedTransformer(GPT2_LIKE | dict(normalization_type="LNPre"), fifty_words())
    _, cache = model.run_with_cache("w05 w06")
    from_text = direct_logit_attribution(model, "w05 w06", "w07", "w09")
    from_cache = direct_logit_attribution(model, answer_tokens=7, incorrect_tokens=9, cache=cache)
    torch.testing.assert_close(from_text.attribution, from_cache.attribution, **CLOSE)
    assert not from_text.attribution.requires_grad and not model.hook_dict["hook_embed"].fwd_hooks


def test_a_cache_beside_its_prompt_and_caches_of_something_else():
    model = HookedTransformer(GPT2_LIKE)
    _, cache = model.run_with_cache(TOKENS)
    both = direct_logit_attribution(model, TOKENS, 3, cache=cache)
    assert torch.equal(both.attribution, direct_logit_attribution(model, answer_tokens=3, cache=cache).attribution)
    for wrong in (
        lambda: direct_logit_attribution(model, TOKENS + 1, 3, cache=cache),
        lambda: direct_logit_attribution(HookedTransformer(GPT2_LIKE), answer_tokens=3, cache=cache),
        lambda: direct_logit_attribution(model, answer_tokens=3, cache=dict(cache)),
    ):
        with pytest.raises((ValueError, TypeError), match=r"what the cache is of|of another model|not a dict"):
            wrong()


@pytest.mark.parametrize("unit", ["component", "layer", "head", "neuron"])
@pytest.mark.parametrize("lazy", [False, True], ids=["full", "lazy"])
@torch.no_grad()
def test_the_last_position_is_the_last_token_however_prompts_are_padded(unit, lazy):
    model = model_of("post-norms, LN")
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [1] * 6, [0, 1, 1, 1, 1, 0]])
    tokens = torch.cat([TOKENS, TOKENS[:1]])
    _, cache = model.run_with_cache(tokens, attention_mask=mask, lazy=lazy)
    answers = torch.tensor([3, 4, 5])
    whole = direct_logit_attribution(model, None, answers, unit=unit, pos=None, cache=cache)
    for pos in (-1, -2):
        result = direct_logit_attribution(model, None, answers, unit=unit, pos=pos, cache=cache)
        assert result.axes == ("component", "batch")
        for example, last in enumerate((2, 5, 4)):
            torch.testing.assert_close(
                result.attribution[:, example], whole.attribution[:, example, last + pos + 1], **CLOSE
            )
    with pytest.raises(ValueError, match="outside a prompt"):
        direct_logit_attribution(model, None, 3, pos=-4, cache=cache)
    with pytest.warns(UserWarning, match="picks padding"):
        direct_logit_attribution(model, None, 3, pos=4, cache=cache)
    some = direct_logit_attribution(model, None, 3, unit="neuron", pos=Slice((1, 3)), cache=cache)
    assert some.axes == ("component", "batch", "pos")


@pytest.mark.parametrize(
    "arguments, message",
    [
        (dict(input=TOKENS, answer_tokens=3, unit="heads"), "Did you mean 'head'"),
        (dict(input=TOKENS), "answer_tokens is needed"),
        (dict(answer_tokens=3), "Give the prompt as input, or the cache.*neither"),
        (dict(input=TOKENS, answer_tokens=3, layer=1), "unit='neuron'"),
        (dict(input=TOKENS, answer_tokens=3, unit="neuron", layer=2), "no layer 2"),
        (dict(input=TOKENS, answer_tokens=RIGHT, incorrect_tokens=3), "one shape"),
        (dict(input=TOKENS, answer_tokens=torch.tensor([1, 2, 3])), "one for each prompt"),
    ],
)
def test_errors_say_what_is_allowed(arguments, message):
    with pytest.raises(ValueError, match=message):
        direct_logit_attribution(HookedTransformer(CONFIGS["gpt2-like"]), **arguments)
