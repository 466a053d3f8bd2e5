"""The weights of a whole model as properties, and what is derived from them, against the oracle."""

from __future__ import annotations

import pytest
import torch
import transformer_lens

from tests.engine.oracle import CONFIGS, GPT2_LIKE, LLAMA_LIKE, SMALL, pair
from tl_widgets import FactoredMatrix, HookedTransformer, SVDInterpreter
from tl_widgets.errors import BadInput

CLOSE = dict(atol=1e-4, rtol=1e-4)
WEIGHTS = [
    "W_E", "W_pos", "W_E_pos", "W_U", "b_U", "W_K", "W_Q", "W_V", "W_O", "W_in", "W_gate", "W_out",
    "b_K", "b_Q", "b_V", "b_O", "b_in", "b_out",
]  # fmt: skip
KINDS = {name: CONFIGS[name] for name in ("gpt2-like", "llama-like grouped", "attention only")}


def close(actual, expected):
    torch.testing.assert_close(actual, expected, **CLOSE)


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_every_weight_equals_the_oracles_or_is_missing_there_too(config):
    theirs, ours = pair(config)
    for name in WEIGHTS:
        if not hasattr(theirs, name):
            assert not hasattr(ours, name), name
            with pytest.raises(AttributeError, match=f"no {name} in custom"):
                getattr(ours, name)
        elif getattr(theirs, name) is None:
            assert getattr(ours, name) is None, name
        else:
            torch.testing.assert_close(getattr(ours, name), getattr(theirs, name), rtol=0, atol=0, msg=name)


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_QK_and_OV_of_the_model_and_of_a_layer(config):
    theirs, ours = pair(config)
    for name in ("QK", "OV"):
        stacked = getattr(ours, name)
        assert isinstance(stacked, FactoredMatrix) and stacked.shape == (2, 4, 16, 16) and stacked.mdim == 4
        close(stacked.AB, getattr(theirs, name).AB)
        for layer in (0, 1):
            close(getattr(ours.blocks[layer].attn, name).AB, stacked[layer].AB)


def test_what_is_missing_says_why():
    attention_only, llama = HookedTransformer(CONFIGS["attention only"]), HookedTransformer(LLAMA_LIKE)
    with pytest.raises(AttributeError, match="attention-only"):
        attention_only.W_in  # noqa: B018
    with pytest.raises(ValueError, match="rotary"):
        llama.W_E_pos  # noqa: B018
    with pytest.raises(AttributeError, match="'HookedTransformer' object has no attribute 'W_Ein'"):
        llama.W_Ein  # noqa: B018
    assert attention_only.W_gate is None and llama.W_gate.shape == (2, 16, 64)
    # A mixture of experts has such weights once for each expert: a stack of them would be none of these.
    llama.cfg.num_experts = 4
    for name in ("W_in", "W_gate", "b_out"):
        with pytest.raises(AttributeError, match="mixtures of 4 experts"):
            getattr(llama, name)


def test_gradients_flow_from_a_stack_to_each_layer():
    model = HookedTransformer(GPT2_LIKE)
    (model.W_Q[1] * 2).sum().backward()
    assert (model.blocks[1].attn.W_Q.grad == 2).all()
    assert (model.blocks[0].attn.W_Q.grad == 0).all()


@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("layer", [0, 1, 2])
def test_accumulated_bias(config, layer):
    theirs, ours = pair(config)
    for mlp_input in (False, True):
        for include in (False, True):
            if mlp_input and layer == 2:
                with pytest.raises(AssertionError, match="last layer is 1"):
                    ours.accumulated_bias(layer, mlp_input, include)
                continue
            # The reference raises for attention-only models; they have no biases of MLPs to include.
            theirs_include = include and not config.get("attn_only", False)
            expected = theirs.accumulated_bias(layer, mlp_input, theirs_include)
            close(ours.accumulated_bias(layer, mlp_input, include), expected)


def test_accumulated_bias_is_what_is_left_without_weights():
    _, model = pair(GPT2_LIKE)
    for name, parameter in model.named_parameters():
        if name.rsplit(".", 1)[-1].startswith("W_") or name.endswith("b_V"):
            parameter.data.zero_()
    _, cache = model.run_with_cache([1, 2, 3])
    for layer in (0, 1):
        close(cache["resid_pre", layer][0, 0], model.accumulated_bias(layer))
        close(cache["resid_mid", layer][0, 0], model.accumulated_bias(layer, mlp_input=True))
    close(cache["resid_post", 1][0, 0], model.accumulated_bias(2))


def test_accumulated_bias_of_mistakes_and_of_norms_behind():
    _, model = pair(GPT2_LIKE)
    for layer in (-1, 3):
        with pytest.raises(BadInput, match="0 to 2"):
            model.accumulated_bias(layer)
    model.cfg.use_normalization_before_and_after = True
    assert not model.accumulated_bias(0).any()
    with pytest.raises(BadInput, match="prompt to prompt"):
        model.accumulated_bias(1)
    for block in model.blocks:
        block.attn.b_O.data.zero_(), block.mlp.b_out.data.zero_()
    assert not model.accumulated_bias(2).any()


@pytest.mark.parametrize("mode", ["Q", "K", "V"])
@pytest.mark.parametrize("config", KINDS.values(), ids=KINDS.keys())
def test_all_composition_scores(config, mode):
    theirs, ours = pair(config | dict(n_layers=3))
    scores = ours.all_composition_scores(mode)
    assert scores.shape == (3, 4, 3, 4)
    close(scores, theirs.all_composition_scores(mode))
    assert not scores[1:, :, :2][0, :, :2].any() and not scores[2].any()
    assert (scores[0, :, 1:] > 0).all()


def test_composition_modes_are_named():
    with pytest.raises(ValueError, match="'Q', 'K', 'V'"):
        HookedTransformer(GPT2_LIKE).all_composition_scores("Z")


def test_labels_and_number_of_parameters():
    theirs, ours = pair(LLAMA_LIKE | dict(n_key_value_heads=2))
    assert ours.all_head_labels() == theirs.all_head_labels()
    assert ours.n_params_total == theirs.n_params_total == sum(p.numel() for p in ours.parameters())


@pytest.mark.parametrize("tokens", [3, [3], [3, 4], [[3, 4]], [[3], [4]], [[3]]], ids=str)
def test_residual_directions_of_tokens(tokens):
    theirs, ours = pair(GPT2_LIKE)
    as_tensor = torch.tensor(tokens)
    expected = theirs.tokens_to_residual_directions(as_tensor)
    close(ours.tokens_to_residual_directions(as_tensor), expected)
    close(ours.tokens_to_residual_directions(tokens), expected)


def test_residual_directions_of_what_are_no_tokens():
    model = HookedTransformer(GPT2_LIKE)
    for mistake in (50, -1, torch.tensor([1, 50])):
        with pytest.raises(BadInput, match="outside the vocabulary"):
            model.tokens_to_residual_directions(mistake)
    with pytest.raises(TypeError, match="float32"):
        model.tokens_to_residual_directions(torch.ones(2))
    with pytest.raises(AssertionError, match="tokenizer"):
        model.tokens_to_residual_directions("a")


def test_position_of_a_token():
    theirs, ours = pair(GPT2_LIKE)
    for tokens in (torch.tensor([1, 3, 3, 2]), torch.tensor([[1, 3, 3, 2]])):
        for mode in ("first", "last"):
            expected = theirs.get_token_position(3, tokens, mode=mode)
            assert ours.get_token_position(3, tokens, mode=mode) == expected
            assert ours.get_token_position(torch.tensor(3), tokens, mode=mode) == expected
    with pytest.raises(AssertionError, match="not among"):
        ours.get_token_position(9, torch.tensor([1, 3]))
    with pytest.raises(ValueError, match="'first' or 'last'"):
        ours.get_token_position(3, torch.tensor([1, 3]), mode="middle")
    with pytest.raises(AssertionError, match="one prompt, not in 2"):
        ours.get_token_position(3, torch.tensor([[1, 3], [1, 3]]))


@pytest.mark.parametrize("config", ["gpt2-like", "gpt2-like folded", "no norm", "llama-like"])
@pytest.mark.parametrize("vector_type", ["OV", "w_in", "w_out"])
def test_singular_vectors(config, vector_type):
    theirs, ours = pair(CONFIGS[config])
    head = 2 if vector_type == "OV" else None
    vectors = SVDInterpreter(ours).get_singular_vectors(vector_type, 1, num_vectors=4, head_index=head)
    expected = transformer_lens.SVDInterpreter(theirs).get_singular_vectors(vector_type, 1, 4, head_index=head)
    assert vectors.shape == expected.shape == (50, 1, 4)
    sign = (vectors * expected).sum(0).sign()  # a singular vector's own means nothing
    close(vectors * sign, expected)


def test_singular_vectors_of_grouped_heads():
    # The reference raises here: it looks for weights that are not repeated.
    _, model = pair(CONFIGS["llama-like grouped"])
    vectors = SVDInterpreter(model).get_singular_vectors("OV", 0, 2, head_index=3)[:, 0]
    V = torch.linalg.svd(model.blocks[0].attn.W_V[3] @ model.blocks[0].attn.W_O[3])[2][:2]
    close(vectors.abs(), (model.W_U.T @ V.T).abs())


def test_singular_vectors_that_are_not_there():
    svd = SVDInterpreter(HookedTransformer(GPT2_LIKE))
    for mistake, message in (
        (dict(vector_type="W_in", layer_index=0), "'w_in'"),
        (dict(vector_type="OV", layer_index=0), "head_index is needed"),
        (dict(vector_type="OV", layer_index=2, head_index=0), "layer_index is 0 to 1"),
        (dict(vector_type="OV", layer_index=0, head_index=4), "head_index is 0 to 3"),
    ):
        with pytest.raises(ValueError, match=message) as raised:
            svd.get_singular_vectors(**mistake)
        assert isinstance(raised.value, AssertionError)
    with pytest.raises(IndexError, match="1 to 4"):
        svd.get_singular_vectors("OV", 0, head_index=0)  # ten by default, but the rank is d_head
    attention_only = SVDInterpreter(HookedTransformer(SMALL | dict(attn_only=True)))
    with pytest.raises(AttributeError, match="attention-only"):
        attention_only.get_singular_vectors("w_out", 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_model_in_half_precision_too(dtype):
    model = HookedTransformer(GPT2_LIKE | dict(dtype=dtype))
    assert model.all_composition_scores("V").dtype == dtype
    for kind in ("OV", "w_in", "w_out"):
        assert SVDInterpreter(model).get_singular_vectors(kind, 0, 2, head_index=0).shape == (50, 1, 2)
