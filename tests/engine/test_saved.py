"""Models saved by `save_pretrained` come back as they were."""

from __future__ import annotations

import json

import pytest
import torch
import transformers

from tests.engine.oracle import CONFIGS, LLAMA_LIKE, pair
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer

TOKENS = torch.randint(0, 50, (2, 12), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS.keys())
@torch.no_grad()
def test_what_was_saved_comes_back(config, tmp_path):
    _, model = pair(config)
    model.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path))
    assert torch.equal(again(TOKENS), model(TOKENS))
    kept = {
        name: value for name, value in model.cfg.to_dict().items() if name not in ("seed", "init_weights", "device")
    }
    assert {name: again.cfg.to_dict()[name] for name in kept} == kept
    assert again.W_Q.stride() == model.W_Q.stride()


@torch.no_grad()
def test_processing_when_loaded_or_before_it_was_saved(tmp_path, recwarn):
    _, model = pair(CONFIGS["gpt2-like"])
    expected = model(TOKENS).log_softmax(-1)
    model.save_pretrained(tmp_path / "raw")
    processed = HookedTransformer.from_pretrained(str(tmp_path / "raw"))
    assert processed.cfg.normalization_type == "LNPre"
    torch.testing.assert_close(processed(TOKENS).log_softmax(-1), expected, atol=1e-4, rtol=1e-4)
    processed.save_pretrained(tmp_path / "processed")
    again = HookedTransformer.from_pretrained(str(tmp_path / "processed"))
    torch.testing.assert_close(again(TOKENS), processed(TOKENS), atol=1e-5, rtol=1e-5)
    assert not [warning for warning in recwarn if "left out" in str(warning.message)]


@torch.no_grad()
def test_a_transformers_model_keeps_its_name_architecture_and_layers(tmp_path):
    hf_model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=61, n_positions=32, n_embd=24, n_layer=3, n_head=3)
    )
    model = HookedTransformer.from_pretrained_no_processing("mine", hf_model=hf_model)
    model.save_pretrained(tmp_path)
    again = HookedTransformer.from_pretrained_no_processing(str(tmp_path), first_n_layers=2, n_ctx=16)
    assert (again.cfg.model_name, again.cfg.original_architecture) == ("mine", "GPT2LMHeadModel")
    expected = model(TOKENS, stop_at_layer=2)
    torch.testing.assert_close(again(TOKENS, stop_at_layer=2), expected)
    with pytest.raises(ValueError, match="n_ctx is 1 to 32"):
        HookedTransformer.from_pretrained(str(tmp_path), n_ctx=64)


def test_the_tokenizer_comes_along_and_nobody_else_s_numbers_change(tmp_path):
    model = HookedTransformer(dict(LLAMA_LIKE) | dict(d_vocab=-1), fifty_words())
    model.save_pretrained(tmp_path / "new" / "folder")
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    again = HookedTransformer.from_pretrained(str(tmp_path / "new" / "folder"), dtype="bf16")
    assert torch.equal(torch.rand(3), expected)  # the seed of the random weights is not the loader's
    assert again.to_tokens("w10 w11").tolist() == model.to_tokens("w10 w11").tolist()
    assert again.W_E.dtype == torch.bfloat16


def test_a_setting_that_nobody_knows(tmp_path):
    pair(CONFIGS["gpt2-like"])[1].save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"n_layer": 2}))
    with pytest.raises(ValueError, match=r"Unknown config field 'n_layer'\. Did you mean 'n_layers'"):
        HookedTransformer.from_pretrained(str(tmp_path))
