"""Loading: random-weight models made from transformers configs must agree with transformers itself."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers
from safetensors.torch import save_file

from tl_widgets import HookedTransformer
from tl_widgets.loading import names

CLOSE = dict(atol=1e-4, rtol=1e-4)
TOKENS = torch.randint(0, 61, (2, 12), generator=torch.Generator().manual_seed(0))


def gpt2(**changes):
    sizes = dict(vocab_size=61, n_positions=32, n_embd=24, n_layer=3, n_head=3)
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**sizes | changes))


def llama(**changes):
    sizes = dict(
        vocab_size=61, max_position_embeddings=64, hidden_size=32, intermediate_size=48,
        num_hidden_layers=3, num_attention_heads=4, num_key_value_heads=4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | changes))


LLAMA_3_ROPE = {
    "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}  # fmt: skip
MODELS = {
    "gpt2": gpt2,
    "gpt2 wide mlp, scaled by layer": lambda: gpt2(n_inner=40, scale_attn_by_inverse_layer_idx=True),
    "llama": llama,
    "llama grouped": lambda: llama(num_key_value_heads=2),
    "llama one kv head, tied": lambda: llama(num_key_value_heads=1, tie_word_embeddings=True),
    "llama wide heads, biases": lambda: llama(head_dim=12, attention_bias=True),
    "llama 3 rope": lambda: llama(rope_parameters=LLAMA_3_ROPE),
    "llama linear rope": lambda: llama(rope_parameters={"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0}),
}


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def hf_model(request):
    torch.manual_seed(0)
    model = request.param().eval()
    for parameter in model.parameters():  # gains and biases too: ones and zeros hide faults
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def test_logits_and_log_probabilities_agree_with_transformers(hf_model):
    expected = hf_model(TOKENS).logits
    raw = HookedTransformer.from_pretrained_no_processing("random", hf_model=hf_model)
    torch.testing.assert_close(raw(TOKENS), expected, **CLOSE)
    processed = HookedTransformer.from_pretrained("random", hf_model=hf_model)
    torch.testing.assert_close(processed(TOKENS).log_softmax(-1), expected.log_softmax(-1), **CLOSE)


@torch.no_grad()
def test_hidden_states_and_attentions_agree_with_transformers(hf_model):
    hf_model.set_attn_implementation("eager")
    expected = hf_model(TOKENS, output_hidden_states=True, output_attentions=True)
    ours = HookedTransformer.from_pretrained_no_processing("random", hf_model=hf_model)
    _, cache = ours.run_with_cache(TOKENS)
    for layer in range(ours.cfg.n_layers):
        torch.testing.assert_close(cache["resid_pre", layer], expected.hidden_states[layer], **CLOSE)
        torch.testing.assert_close(cache["pattern", layer], expected.attentions[layer], **CLOSE)


@torch.no_grad()
def test_left_padding_gives_real_tokens_the_logits_they_have_alone(hf_model):
    ours = HookedTransformer.from_pretrained_no_processing("random", hf_model=hf_model)
    alone = ours(TOKENS[:1, 4:])
    mask = torch.ones_like(TOKENS)
    mask[0, :4] = 0
    together = ours(TOKENS, attention_mask=mask)
    torch.testing.assert_close(together[:1, 4:], alone, **CLOSE)
    watched, _ = ours.run_with_cache(TOKENS, attention_mask=mask)
    torch.testing.assert_close(watched, together, **CLOSE)
    right = torch.ones_like(TOKENS)
    right[0, 8:] = 0
    torch.testing.assert_close(ours(TOKENS, attention_mask=right)[:1, :8], ours(TOKENS[:1, :8]), **CLOSE)


def test_a_local_directory_whole_and_sharded(tmp_path):
    hf_model = llama(num_key_value_heads=2).eval()
    expected = hf_model(TOKENS).logits
    for name, shard_size in (("whole", "1GB"), ("sharded", "20kB")):
        hf_model.save_pretrained(tmp_path / name, max_shard_size=shard_size)
        ours = HookedTransformer.from_pretrained_no_processing(str(tmp_path / name))
        torch.testing.assert_close(ours(TOKENS), expected, **CLOSE)
        assert ours.cfg.model_name == name and ours.tokenizer is None
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 1


def test_a_hub_id_is_found_in_the_local_hub_cache(tmp_path):
    # The layout of a hub cache, so that the real download code runs and finds all it needs without a network.
    snapshot = tmp_path / "models--someone--tiny" / "snapshots" / "abc123"
    hf_model = gpt2().eval()
    hf_model.save_pretrained(snapshot)
    (tmp_path / "models--someone--tiny" / "refs").mkdir()
    (tmp_path / "models--someone--tiny" / "refs" / "main").write_text("abc123")
    ours = HookedTransformer.from_pretrained_no_processing("someone/tiny", cache_dir=tmp_path, local_files_only=True)
    torch.testing.assert_close(ours(TOKENS), hf_model(TOKENS).logits, **CLOSE)
    with pytest.raises(OSError, match="someone/other is not on this machine"):
        HookedTransformer.from_pretrained("someone/other", cache_dir=tmp_path, local_files_only=True)


def test_first_n_layers_n_ctx_and_dtype():
    hf_model = llama().eval()
    ours = HookedTransformer.from_pretrained("x", hf_model=hf_model, first_n_layers=2, n_ctx=128, dtype="bf16")
    assert (ours.cfg.n_layers, ours.cfg.n_ctx, ours.embed.W_E.dtype) == (2, 128, torch.bfloat16)
    assert ours(TOKENS).dtype == torch.bfloat16
    with pytest.raises(ValueError, match="first_n_layers is 1 to 3"):
        HookedTransformer.from_pretrained("x", hf_model=hf_model, first_n_layers=4)
    with pytest.raises(ValueError, match="n_ctx is 1 to 32"):
        HookedTransformer.from_pretrained("x", hf_model=gpt2(), n_ctx=64)


def test_cls_from_pretrained_returns_the_subclass():
    class Mine(HookedTransformer):
        pass

    assert type(Mine.from_pretrained("x", hf_model=gpt2())) is Mine


def test_weights_keep_the_memory_layout_of_fused_products():
    ours = HookedTransformer.from_pretrained("x", hf_model=llama())
    attn, mlp = ours.blocks[0].attn, ours.blocks[0].mlp
    for view in (
        attn.W_Q.transpose(1, 2),
        attn.W_K.transpose(1, 2),
        attn.W_O.permute(2, 0, 1),
        mlp.W_in,  # as most others: the longer dimension last
        mlp.W_out.T,
        ours.unembed.W_U,
    ):
        assert view.is_contiguous()


# Mistakes


@pytest.mark.parametrize(
    "name, nearest",
    [("gpt2-smal", "gpt2-small"), ("smollm2-135m-instrct", "smollm2-135m-instruct"), ("lama-3.2-1b", "llama-3.2-1b")],
)
def test_an_unknown_name_suggests_the_nearest(name, nearest):
    with pytest.raises(ValueError, match=nearest):
        HookedTransformer.from_pretrained(name)


def test_an_unmapped_architecture_says_what_to_add(tmp_path):
    transformers.GPTNeoXForCausalLM(
        transformers.GPTNeoXConfig(
            vocab_size=61, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        )
    ).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"GPTNeoXForCausalLM is not mapped.*loading/families"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_broken_directories(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        HookedTransformer.from_pretrained(str(tmp_path))
    gpt2().save_pretrained(tmp_path)
    weights = tmp_path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="not a whole safetensors file"):
        HookedTransformer.from_pretrained(str(tmp_path))
    weights.unlink()
    (tmp_path / "pytorch_model.bin").write_bytes(b"never opened")
    with pytest.raises(ValueError, match="pickle"):
        HookedTransformer.from_pretrained(str(tmp_path))
    save_file({"transformer.wte.weight": torch.zeros(61, 24)}, weights)
    with pytest.raises(ValueError, match=r"lack 'transformer\.wpe\.weight'"):
        HookedTransformer.from_pretrained(str(tmp_path))
    config = json.loads((tmp_path / "config.json").read_text()) | {"vocab_size": 99}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights.write_bytes(whole)
    with pytest.raises(ValueError, match=r"embed.W_E is \[61, 24\].*\[99, 24\]"):
        HookedTransformer.from_pretrained(str(tmp_path))


def test_a_file_that_is_no_gguf(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"GGUF but not really")
    with pytest.raises(ValueError, match="could not be read as a GGUF"):
        HookedTransformer.from_pretrained(str(path))


@pytest.mark.parametrize("name", ["./nope/model", "nope.gguf", "~/nope", "a/b/c", "owner/na me"])
def test_a_path_or_id_that_leads_nowhere(name):
    with pytest.raises(ValueError, match=r"no file or directory|no hub id"):
        HookedTransformer.from_pretrained(name)


def test_an_empty_name_is_no_directory():
    with pytest.raises(ValueError, match="No model is called ''"):
        HookedTransformer.from_pretrained("")


def test_code_in_a_directory_is_never_run(tmp_path, monkeypatch):
    (tmp_path / "custom.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass")
    config = {"model_type": "unheard-of", "auto_map": {"AutoConfig": "custom.Config"}, "architectures": ["X"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("builtins.input", lambda *_: "y")  # transformers may ask, and people may say yes
    with pytest.raises(ValueError, match=r"config\.json .* could not be read"):
        HookedTransformer.from_pretrained(str(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_options_that_do_not_exist_or_are_never_obeyed():
    with pytest.raises(ValueError, match="fold_lnn"):
        HookedTransformer.from_pretrained("gpt2", fold_lnn=True)
    with pytest.raises(ValueError, match="trust_remote_code"):
        HookedTransformer.from_pretrained("gpt2", trust_remote_code=True)
    with pytest.raises(ValueError, match="fold_lnn"):
        HookedTransformer.from_pretrained("x", hf_model=gpt2(), fold_lnn=True)


def test_every_listed_alias_leads_to_its_hub_id():
    for hub_id, aliases in names.MODELS.items():
        for name in (hub_id, *aliases, hub_id.upper()):
            assert names.hub_id_of(name) == hub_id


def test_the_engine_imports_no_widget():
    code = "import sys, tl_widgets; assert not {'anywidget', 'ipywidgets', 'IPython', 'matplotlib'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
