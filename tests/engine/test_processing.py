"""Processing never moves log-probabilities, and agrees with the oracle weight by weight where the oracle is exact."""

from __future__ import annotations

import warnings

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, SMALL, pair, weights_of
from tl_widgets import HookedTransformer
from tl_widgets.loading.processing import STEPS

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)

ALL_CONFIGS = CONFIGS | {
    "post-norms, LayerNorm": GPT2_LIKE | dict(use_normalization_before_and_after=True),  # the oracle cannot build it
}
FOUR_STEPS = [name for name in STEPS if name != "refactor_factored_attn_matrices"]


def exact(config):
    """The steps that the contract calls exact for a config."""
    norm = config.get("normalization_type", "LN")
    short = config.get("positional_embedding_type") == "shortformer"
    post = bool(config.get("use_normalization_before_and_after"))
    return {
        "fold_ln": norm in ("LN", "RMS") and not short and not config.get("num_experts"),
        "center_writing_weights": norm in ("LN", "LNPre") and not short and not post and not config.get("final_rms"),
        "center_unembed": config.get("output_logits_soft_cap", -1) < 0 and not short,
        "fold_value_biases": not config.get("use_attention_sinks") and config.get("clip_qkv") is None,
    }


def build(config):
    if config in CONFIGS.values():
        return pair(config)[1]
    model = HookedTransformer(config)
    for parameter in model.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    return model


def left_out(caught):
    return {str(w.message).split(" is left out")[0] for w in caught if "is left out" in str(w.message)}


@pytest.mark.parametrize("config", ALL_CONFIGS.values(), ids=ALL_CONFIGS.keys())
def test_each_step_keeps_log_probabilities_or_is_left_out_with_a_warning(config):
    for step in FOUR_STEPS:
        model = build(config)
        before = model(TOKENS).log_softmax(-1)
        old = {name: weight.clone() for name, weight in model.state_dict().items()}
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model.process_weights_(**(dict.fromkeys(STEPS, False) | {step: True}))
        torch.testing.assert_close(model(TOKENS).log_softmax(-1), before, **CLOSE, msg=lambda m, s=step: f"{s}: {m}")
        assert left_out(caught) == (set() if exact(config)[step] else {step})
        new = model.state_dict()
        assert any(not torch.equal(new[n], old[n]) for n in new) == exact(config)[step]


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_processed_weights_agree_with_the_oracle(config):
    theirs, ours = pair(config)
    steps = exact(config)
    if config.get("act_fn") == "solu" or (config.get("act_fn"), config.get("normalization_type")) == ("solu_ln", "RMS"):
        steps["fold_ln"] = False  # there the oracle raises: it looks for the weights of a norm that has none
    if config.get("num_experts"):
        steps["center_writing_weights"] = False  # there the oracle moves log-probabilities by more than 1
    ours.load_and_process_state_dict(theirs.state_dict(), **steps)
    theirs.load_and_process_state_dict(theirs.state_dict(), **steps)
    expected = weights_of(theirs)
    for name, weight in ours.state_dict().items():
        torch.testing.assert_close(weight, expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


REFACTORABLE = {
    name: config
    for name, config in CONFIGS.items()
    if config.get("positional_embedding_type") != "rotary" and not config.get("use_qk_norm")
}


@pytest.mark.parametrize("config", REFACTORABLE.values(), ids=REFACTORABLE.keys())
def test_refactoring_keeps_log_probabilities_and_agrees_with_the_oracle_up_to_signs(config):
    theirs, ours = pair(config)
    before = ours(TOKENS).log_softmax(-1)
    steps = dict.fromkeys(STEPS, False) | {"refactor_factored_attn_matrices": True}
    ours.process_weights_(**steps)
    torch.testing.assert_close(ours(TOKENS).log_softmax(-1), before, **CLOSE)
    theirs.load_and_process_state_dict(theirs.state_dict(), **steps)
    for our_block, their_block in zip(ours.blocks, theirs.blocks, strict=True):
        for name in ("W_Q", "W_K", "W_V", "W_O", "b_V", "b_O"):
            mine, other = getattr(our_block.attn, name), getattr(their_block.attn, name)
            torch.testing.assert_close(mine.abs(), other.abs(), **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


@pytest.mark.parametrize(
    "config, reason",
    [
        (LLAMA_LIKE, "rotary"),
        (GPT2_LIKE | dict(use_qk_norm=True), "norms on queries"),
        (GPT2_LIKE | dict(n_key_value_heads=2), "grouped-query"),
        (GPT2_LIKE | dict(use_attention_sinks=True), "sinks"),
        (GPT2_LIKE | dict(clip_qkv=1.0), "clipped"),
    ],
)
def test_refactoring_is_refused_where_attention_is_not_two_maps(config, reason):
    model = HookedTransformer(config)
    with pytest.raises(AssertionError, match=f"refused.*{reason}"):
        model.refactor_factored_attn_matrices(model.state_dict())


@pytest.mark.parametrize(
    "config, wanted, reason",
    [
        (LLAMA_LIKE, "center_writing_weights", "only LayerNorm"),
        (GPT2_LIKE | dict(final_rms=True), "center_writing_weights", "final norm"),
        (GPT2_LIKE | dict(use_normalization_before_and_after=True), "center_writing_weights", "post-norms"),
        (GPT2_LIKE | dict(output_logits_soft_cap=3.0), "center_unembed", "soft cap"),
        (GPT2_LIKE | dict(gated_mlp=True), "fold_ln", "gated MLP"),
        (GPT2_LIKE | dict(num_experts=2, experts_per_token=1), "fold_ln", "experts"),
        (SMALL | dict(attn_only=True, positional_embedding_type="shortformer"), "fold_ln", "shortformer"),
        (GPT2_LIKE | dict(use_attention_sinks=True), "fold_value_biases", "sinks"),
        (GPT2_LIKE | dict(clip_qkv=1.0), "fold_value_biases", "clipped"),
    ],
)
def test_a_step_that_would_not_be_exact_says_why(config, wanted, reason):
    model = build(config)
    before = model(TOKENS).log_softmax(-1)
    with pytest.warns(UserWarning, match=f"{wanted}.*{reason}"):
        model.process_weights_(**(dict.fromkeys(STEPS, False) | {wanted: True}))
    torch.testing.assert_close(model(TOKENS).log_softmax(-1), before, **CLOSE)


@pytest.mark.parametrize("method", ["fold_layer_norm", "center_writing_weights", "center_unembed", "fold_value_biases"])
def test_methods_on_state_dicts_agree_with_the_oracle_and_leave_the_model_alone(method):
    theirs, ours = pair(GPT2_LIKE)
    before = {name: weight.clone() for name, weight in ours.state_dict().items()}
    processed = getattr(ours, method)(ours.state_dict())
    expected = getattr(theirs, method)({name: weight.clone() for name, weight in theirs.state_dict().items()})
    for name, weight in before.items():
        torch.testing.assert_close(processed[name], expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")
        assert torch.equal(ours.state_dict()[name], weight)
    logits = ours(TOKENS)
    ours.load_state_dict(processed)
    torch.testing.assert_close(ours(TOKENS).log_softmax(-1), logits.log_softmax(-1), **CLOSE)


@pytest.mark.parametrize("flags", [dict(fold_biases=False), dict(fold_biases=False, center_weights=False)], ids=str)
def test_parts_of_folding_agree_with_the_oracle(flags):
    theirs, ours = pair(GPT2_LIKE)
    processed = ours.fold_layer_norm(ours.state_dict(), **flags)
    expected = theirs.fold_layer_norm({n: w.clone() for n, w in theirs.state_dict().items()}, **flags)
    for name, weight in processed.items():
        torch.testing.assert_close(weight, expected[name], **CLOSE, msg=lambda m, name=name: f"{name}: {m}")


def test_missing_biases_are_filled_and_missing_matrices_are_an_error():
    model = HookedTransformer(GPT2_LIKE)
    whole = model.state_dict()
    without = {name: w for name, w in whole.items() if not name.endswith(("b_U", "ln1.b"))}
    assert set(model.fill_missing_keys(without)) == set(whole)
    del without["blocks.1.attn.W_Q"]
    with pytest.raises(ValueError, match=r"blocks\.1\.attn\.W_Q"):
        model.fill_missing_keys(without)
