"""What the reference does wrong with a cache, done right; numbered as in the engine's contract."""

from __future__ import annotations

import pytest
import torch

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, SMALL, pair
from tl_widgets import HookedTransformer

TOKENS = torch.randint(0, 50, (2, 6), generator=torch.Generator().manual_seed(0))
CLOSE = dict(atol=1e-4, rtol=1e-4)
PROJECTION = torch.randn(16, 3, generator=torch.Generator().manual_seed(2))


def run(config, tokens=TOKENS, **options):
    _, model = pair(config)
    model.requires_grad_(False)
    logits, cache = model.run_with_cache(tokens, **options)
    return model, logits, cache


def test_3_neurons_are_scaled_by_the_norm_that_was_named():
    _, _, cache = run(GPT2_LIKE)
    stack = cache.get_full_resid_decomposition(1, mlp_input=True, apply_ln=True, project_output_onto=PROJECTION)
    torch.testing.assert_close(stack.sum(0), cache["normalized", 1, "ln2"] @ PROJECTION, **CLOSE)
    unprojected = cache.get_full_resid_decomposition(1, mlp_input=True, apply_ln=True)
    torch.testing.assert_close(stack, unprojected @ PROJECTION, **CLOSE)


def test_4_an_attention_only_model_has_heads_embeddings_and_biases():
    model, _, cache = run(SMALL | dict(attn_only=True))
    stack, labels = cache.get_full_resid_decomposition(return_labels=True)
    assert labels == [*model.all_head_labels(), "embed", "pos_embed", "bias"]
    torch.testing.assert_close(stack.sum(0), cache["resid_post", -1], **CLOSE)
    torch.testing.assert_close(stack[-1, 0, 0], model.accumulated_bias(2), **CLOSE)
    for call in (lambda: cache.get_neuron_results(0), lambda: cache.stack_neuron_results(-1)):
        with pytest.raises(KeyError, match="attention-only"):
            call()


def test_5_a_mixture_of_experts_is_a_component_as_a_whole():
    _, _, cache = run(CONFIGS["experts"])
    stack, labels = cache.get_full_resid_decomposition(return_labels=True)
    assert labels[8:] == ["0_mlp_out", "1_mlp_out", "embed", "bias"]
    torch.testing.assert_close(stack[8], cache["mlp_out", 0])
    torch.testing.assert_close(stack.sum(0), cache["resid_post", -1], **CLOSE)
    for call in (lambda: cache.get_neuron_results(0), lambda: cache.stack_neuron_results(1)):
        with pytest.raises(KeyError, match="mixtures of 4 experts"):
            call()


@pytest.mark.parametrize("name", ["shortformer", "shortformer, attention only"])
def test_6_positions_of_a_shortformer_are_no_part_of_the_stream(name):
    _, _, cache = run(CONFIGS[name])
    for method in ("decompose_resid", "get_full_resid_decomposition"):
        stack, labels = getattr(cache, method)(return_labels=True)
        assert "embed" in labels and "pos_embed" not in labels
        torch.testing.assert_close(stack.sum(0), cache["resid_post", -1], **CLOSE)


@pytest.mark.parametrize("normalization_type", ["RMS", "RMSPre", "LN", "LNPre"])
def test_7_heads_and_neurons_go_through_post_norms(normalization_type):
    config = (LLAMA_LIKE if "RMS" in normalization_type else GPT2_LIKE) | dict(
        use_normalization_before_and_after=True, normalization_type=normalization_type
    )
    model = HookedTransformer(config).requires_grad_(False)
    for name, parameter in model.named_parameters():  # gains that differ, and no biases: then parts are all there is
        parameter.uniform_(0.5, 2.0) if name.endswith(".w") else parameter.zero_() if ".b" in name[-5:] else None
    _, cache = model.run_with_cache(TOKENS)
    assert not any(block.attn.b_O.any() or block.mlp.b_out.any() for block in model.blocks)
    heads = cache.stack_head_results()
    for layer in (0, 1):
        torch.testing.assert_close(heads[layer * 4 :][:4].sum(0), cache["attn_out", layer], **CLOSE)
        torch.testing.assert_close(cache.get_neuron_results(layer).sum(-2), cache["mlp_out", layer], **CLOSE)
        projected = cache.get_neuron_results(layer, project_output_onto=PROJECTION)
        torch.testing.assert_close(projected.sum(-2), cache["mlp_out", layer] @ PROJECTION, **CLOSE)
    cache.compute_head_results()  # as at the hook point, before the norm
    model.set_use_attn_result(True)
    torch.testing.assert_close(cache["result", 1], model.run_with_cache(TOKENS)[1]["result", 1], **CLOSE)
    torch.testing.assert_close(cache.stack_head_results(), heads, **CLOSE)


def test_8_before_the_first_layer_what_remains_are_the_embeddings():
    _, _, cache = run(GPT2_LIKE)
    for stack, labels in (
        cache.stack_head_results(0, incl_remainder=True, return_labels=True),
        cache.stack_neuron_results(0, incl_remainder=True, return_labels=True),
    ):
        assert labels == ["remainder"]
        torch.testing.assert_close(stack[0], cache["embed"] + cache["pos_embed"], **CLOSE)


@pytest.mark.parametrize("name", ["attention only", "parallel, partial rotary"])
def test_9_blocks_without_a_middle_leave_it_out(name):
    _, _, cache = run(CONFIGS[name])
    stack, labels = cache.accumulated_resid(incl_mid=True, return_labels=True)
    assert labels == ["0_pre", "1_pre", "final_post"]
    torch.testing.assert_close(stack, cache.accumulated_resid())
    assert cache.accumulated_resid(1, mlp_input=True, return_labels=True)[1] == ["0_pre", "1_pre"]


@pytest.mark.filterwarnings("ignore:This model's final norm has a gain")
@pytest.mark.parametrize("n_pos", [2, 6], ids=["as many positions as prompts", "more"])
def test_10_a_token_for_each_prompt_counts_at_every_position(n_pos):
    _, _, cache = run(GPT2_LIKE, TOKENS[:, :n_pos])
    stack = cache.decompose_resid()
    right, wrong = torch.tensor([3, 4]), torch.tensor([7, 8])
    together = cache.logit_attrs(stack, right, wrong)
    assert together.shape == (6, 2, n_pos)
    for item in (0, 1):
        alone = cache.logit_attrs(stack, int(right[item]), int(wrong[item]))
        torch.testing.assert_close(together[:, item], alone[:, item], **CLOSE)
    everywhere = cache.logit_attrs(stack, right[:, None].expand(2, n_pos), wrong[:, None].expand(2, n_pos))
    torch.testing.assert_close(together, everywhere, **CLOSE)
    at_the_end = cache.logit_attrs(stack[:, :, -1], right, wrong, pos_slice=-1)
    torch.testing.assert_close(at_the_end, together[:, :, -1], **CLOSE)


@pytest.mark.parametrize("name", ["every optional point", "attn_in", "grouped, split inputs"])
@pytest.mark.parametrize("pos_slice", [None, 2, [0, -1]], ids=str)
def test_11_inputs_split_by_head_leave_one_scale(name, pos_slice):
    _, _, cache = run(CONFIGS[name])
    unsplit = CONFIGS[name] | dict(use_split_qkv_input=False, use_attn_in=False)
    _, _, plain = run(unsplit)
    assert cache["scale", 1, "ln1"].ndim == 4 and plain["scale", 1, "ln1"].ndim == 3
    flags = dict(layer=1, apply_ln=True, pos_slice=pos_slice)
    for method in ("decompose_resid", "accumulated_resid", "stack_head_results", "get_full_resid_decomposition"):
        torch.testing.assert_close(getattr(cache, method)(**flags), getattr(plain, method)(**flags), **CLOSE)


def test_14_logit_attrs_says_that_an_unfolded_gain_is_left_out():
    model, logits, cache = run(GPT2_LIKE)
    with pytest.warns(UserWarning, match=r"gain of its own.*direct_logit_attribution"):
        cache.logit_attrs(cache.decompose_resid(), 3)
    model.process_weights_()
    logits, cache = model.run_with_cache(TOKENS)
    total = cache.logit_attrs(cache.decompose_resid(), 3).sum(0)
    torch.testing.assert_close(total + model.b_U[3], logits[..., 3], **CLOSE)
