"""Half precision: what is kept in it, and that neither the network nor processing is less exact than it has to be."""

from __future__ import annotations

import warnings

import pytest
import torch
import transformers

from tests.engine.oracle import CONFIGS, pair
from tl_widgets import HookedTransformer

TOKENS = torch.randint(0, 50, (2, 10), generator=torch.Generator().manual_seed(0))
HALVES = [torch.bfloat16, torch.float16]
# Rounding at every step moves log-probabilities by so much (they are about -4): before and after processing, and
# between two libraries.
CLOSE = {torch.bfloat16: dict(atol=3e-2, rtol=0), torch.float16: dict(atol=5e-3, rtol=0)}
# Without norms numbers grow until half precision says nothing, and a router's choice jumps at the slightest rounding.
SMOOTH = {
    name: config
    for name, config in CONFIGS.items()
    if config.get("normalization_type", "LN") is not None and not config.get("num_experts")
}


def in_half(config, dtype):
    """One set of weights in float32 and in half precision."""
    _, exact = pair(config)
    model = HookedTransformer(config | dict(dtype=dtype))
    model.load_state_dict(exact.state_dict())
    return exact, model


@torch.no_grad()
def log_probs(model, tokens=TOKENS):
    return model(tokens).float().log_softmax(-1)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
def test_everything_but_scales_has_the_models_dtype(config, dtype):
    _, model = in_half(config, dtype)
    logits, cache = model.run_with_cache(TOKENS)
    assert logits.dtype == model(TOKENS).dtype == dtype
    for name, activation in cache.items():
        if activation.is_floating_point():
            in_single = name.endswith(("hook_scale", "hook_expert_weights"))  # inside norms and the router's softmax
            assert activation.dtype == (torch.float32 if in_single else dtype), name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("config", SMOOTH.values(), ids=SMOOTH.keys())
def test_watched_unwatched_and_processed_are_as_near_to_float32(config, dtype):
    exact, model = in_half(config, dtype)
    expected = log_probs(exact)
    plain = log_probs(model)
    watched = model.run_with_cache(TOKENS)[0].float().log_softmax(-1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.process_weights_()
    processed = log_probs(model)
    error = (plain - expected).abs().mean()
    for other in (watched, processed):
        assert (other - expected).abs().mean() < 2 * error


def gpt2():
    sizes = dict(vocab_size=61, n_positions=32, n_embd=48, n_layer=3, n_head=4)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes))


def llama():
    sizes = dict(
        vocab_size=61, max_position_embeddings=64, hidden_size=64, intermediate_size=96,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes))


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("build", [gpt2, llama])
def test_loaded_in_half_precision_it_agrees_with_transformers_before_and_after_processing(build, dtype):
    torch.manual_seed(0)
    hf_model = build().eval()
    for parameter in hf_model.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    hf_model = hf_model.to(dtype)
    with torch.no_grad():
        expected = hf_model(TOKENS).logits.float().log_softmax(-1)
    raw = HookedTransformer.from_pretrained_no_processing("x", hf_model=hf_model, dtype=dtype)
    processed = HookedTransformer.from_pretrained("x", hf_model=hf_model, dtype=dtype)
    assert {p.dtype for p in processed.parameters()} == {dtype}
    torch.testing.assert_close(log_probs(raw), expected, **CLOSE[dtype])
    torch.testing.assert_close(log_probs(processed), log_probs(raw), **CLOSE[dtype])
    torch.testing.assert_close(log_probs(processed), expected, **CLOSE[dtype])
