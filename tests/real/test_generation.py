"""SmolLM2-135M-Instruct goes on as it does in transformers, token by token, with and without the cache."""

from __future__ import annotations

import pytest
import torch

from tl_widgets import HookedTransformerKeyValueCache
from tl_widgets.loading.names import packaged_gguf

PROMPT = "The history of the printing press begins"
PROMPTS = [PROMPT, "When Mary and John went to the store, John gave a drink to", "Paris"]
GREEDY = dict(do_sample=False, verbose=False)
CHAT = [dict(role="user", content="What is the capital of France?")]


@pytest.fixture(scope="module")
def hf():
    from transformers import AutoModelForCausalLM

    path = packaged_gguf("HuggingFaceTB/SmolLM2-135M-Instruct")
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def expected(hf, raw):
    return hf.generate(raw.to_tokens(PROMPT), do_sample=False, max_new_tokens=50)


@pytest.mark.parametrize("use_past_kv_cache", [True, False], ids=["cache", "no cache"])
def test_fifty_greedy_tokens_are_those_of_transformers(raw, expected, use_past_kv_cache):
    tokens = raw.to_tokens(PROMPT)
    out = raw.generate(tokens, max_new_tokens=50, use_past_kv_cache=use_past_kv_cache, **GREEDY)
    assert out.shape[1] == tokens.shape[1] + 50
    assert torch.equal(out, expected)


def test_as_text(raw, expected):
    text = raw.generate(PROMPT, max_new_tokens=50, **GREEDY)
    assert text == raw.tokenizer.decode(expected[0], skip_special_tokens=True)
    assert text.startswith(PROMPT + " ")
    stream = raw.generate_stream(PROMPT, max_new_tokens=50, max_tokens_per_yield=5, return_type="str", **GREEDY)
    assert "".join(stream) == text


def test_unequal_prompts_go_on_as_each_does_alone(raw):
    options = GREEDY | dict(max_new_tokens=12)
    alone = [raw.generate(prompt, **options) for prompt in PROMPTS]
    assert raw.generate(PROMPTS, **options) == alone
    assert raw.generate(PROMPTS, padding_side="right", **options) == alone
    assert raw.generate(PROMPTS, use_past_kv_cache=False, **options) == alone


def test_a_chat_is_answered_as_in_transformers(hf, raw):
    tokens = raw.tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_tensors="pt", return_dict=False)
    assert torch.equal(raw.to_tokens(CHAT), tokens)
    out = raw.generate(CHAT, max_new_tokens=30, return_type="tokens", **GREEDY)
    assert torch.equal(out, hf.generate(tokens, do_sample=False, max_new_tokens=30))
    assert "Paris" in raw.to_string(out[0, tokens.shape[1] :])
    assert out[0, -1] == raw.tokenizer.eos_token_id  # it ends before the thirty are spent
    assert out.shape[1] < tokens.shape[1] + 30


@torch.no_grad()
@pytest.mark.parametrize("watched", [False, True], ids=["fused", "in steps"])
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_padded_batch_in_parts_says_what_each_says_alone(raw, padding_side, watched):
    tokens, lengths = raw.to_tokens(PROMPTS, padding_side=padding_side), [raw.to_tokens(p).shape[1] for p in PROMPTS]
    rest = raw.to_tokens([" and then", " and then", " and then"], prepend_bos=False)
    cache = HookedTransformerKeyValueCache.init_cache(raw.cfg, raw.cfg.device, len(PROMPTS))
    hooks = [("blocks.0.attn.hook_pattern", lambda x, hook: None)] if watched else []
    with raw.hooks(hooks):
        first = raw(tokens, padding_side=padding_side, past_kv_cache=cache)
        after = raw(rest, past_kv_cache=cache)
    for i, prompt in enumerate(PROMPTS):
        alone = raw(torch.cat([raw.to_tokens(prompt), rest[:1]], dim=1))[0]
        place = slice(-lengths[i], None) if padding_side == "left" else slice(lengths[i])
        torch.testing.assert_close(first[i, place], alone[: lengths[i]], atol=1e-3, rtol=0)
        torch.testing.assert_close(after[i], alone[lengths[i] :], atol=1e-3, rtol=0)
