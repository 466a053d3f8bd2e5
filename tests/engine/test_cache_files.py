"""Caches as files: what is saved comes back, and what is no whole cache of this model is a clear error."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.engine.oracle import GPT2_LIKE, LLAMA_LIKE
from tl_widgets import ActivationCache, HookedTransformer, HookedTransformerKeyValueCache
from tl_widgets.cache import LazyActivationCache, saving
from tl_widgets.errors import CannotLoad, StaleCache

TOKENS = torch.randint(0, 50, (2, 9), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def model():
    return HookedTransformer(GPT2_LIKE)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache.safetensors"


@pytest.mark.parametrize("lazy", [False, True], ids=["full", "lazy"])
@pytest.mark.parametrize(
    "options",
    [{}, dict(pos_slice=(1, 4)), dict(pos_slice=[0, 3]), dict(pos_slice=-1), dict(stop_at_layer=1)],
    ids=str,
)
def test_what_is_saved_comes_back(model, path, lazy, options):
    mask = torch.tensor([[0, 0, 1, 1, 1, 1, 1, 1, 1], [1] * 9])
    _, cache = model.run_with_cache(TOKENS, attention_mask=mask, lazy=lazy, **options)
    cache.save(path)
    again = ActivationCache.load(path, model)
    assert type(again) is type(cache)
    assert list(again) == (list(cache) if lazy else sorted(again)) and set(again) == set(cache)
    for name in cache:
        assert torch.equal(again[name], cache[name]), name
    assert torch.equal(again.tokens, TOKENS) and torch.equal(again.mask, mask)
    assert again.model is model and again.has_batch_dim
    assert list(path.parent.iterdir()) == [path]


def test_a_lazy_cache_is_a_small_file_with_its_hooks_in_it(model, path):
    noise = [("blocks.0.attn.hook_z", lambda z, hook: z + torch.randn_like(z))]
    with model.hooks(noise):
        _, cache = model.run_with_cache(TOKENS[:1], lazy=True, remove_batch_dim=True)
    cache.save(path)
    assert path.stat().st_size < cache.nbytes + 20_000
    again = ActivationCache.load(path, model)
    assert isinstance(again, LazyActivationCache) and not again.has_batch_dim
    for name in cache:
        torch.testing.assert_close(again[name], cache[name])


def test_a_model_that_computes_something_else_is_noticed(model, path):
    model.run_with_cache(TOKENS, lazy=True)[1].save(path)
    other = HookedTransformer(GPT2_LIKE | dict(seed=7))
    with pytest.raises(StaleCache, match="does not compute again"):
        ActivationCache.load(path, other)
    with pytest.raises(CannotLoad, match=r"n_layers=2, but this model .* has n_layers=1"):
        ActivationCache.load(path, HookedTransformer(GPT2_LIKE | dict(n_layers=1)))
    with pytest.raises(CannotLoad, match="n_key_value_heads"):
        ActivationCache.load(path, HookedTransformer(LLAMA_LIKE | dict(n_key_value_heads=2)))


def test_a_truncated_or_foreign_file_is_a_clear_error(model, path, tmp_path):
    with pytest.raises(CannotLoad, match="no file"):
        ActivationCache.load(path, model)
    model.run_with_cache(TOKENS)[1].save(path)
    whole = path.read_bytes()
    for length in (0, 4, 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(CannotLoad, match="not a whole safetensors file"):
            ActivationCache.load(path, model)
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(CannotLoad, match="does not say what it is"):
        ActivationCache.load(path, model)
    save_file({"x": torch.zeros(2)}, path, {"format": "pt"})
    with pytest.raises(CannotLoad, match="says it is 'pt'"):
        ActivationCache.load(path, model)
    with pytest.raises(ValueError, match="no directory"):
        model.run_with_cache(TOKENS)[1].save(tmp_path / "nowhere" / "cache.safetensors")


def test_an_old_file_survives_a_save_that_fails(model, path, monkeypatch):
    _, cache = model.run_with_cache(TOKENS)
    cache.save(path)
    before = path.read_bytes()
    cache.cache_dict["odd"] = "no tensor"
    with pytest.raises(AttributeError):
        cache.save(path)
    assert path.read_bytes() == before and list(path.parent.iterdir()) == [path]


def test_a_lazy_cache_after_a_past_can_be_saved_as_a_full_one(model, path):
    past = HookedTransformerKeyValueCache.init_cache(model.cfg, "cpu", 2)
    model(TOKENS[:, :4], past_kv_cache=past)
    _, cache = model.run_with_cache(TOKENS[:, 4:], past_kv_cache=past, lazy=True)
    with pytest.raises(ValueError, match=r"key/value cache cannot be saved"):
        cache.save(path)
    ActivationCache(dict(cache), model).save(path)
    assert torch.equal(ActivationCache.load(path, model)["pattern", 1], cache["pattern", 1])


def test_what_was_assigned_is_not_dropped_in_silence(model, path):
    _, cache = model.run_with_cache(TOKENS, lazy=True)
    cache.cache_dict["blocks.0.attn.hook_z"] = torch.zeros(1)
    with pytest.raises(ValueError, match="assigned to it cannot be saved"):
        cache.save(path)


def test_half_precision_is_told_apart_by_its_bits(path):
    model = HookedTransformer(GPT2_LIKE).to(torch.bfloat16)
    _, cache = model.run_with_cache(TOKENS, lazy=True)
    cache.save(path)
    assert torch.equal(ActivationCache.load(path, model)["pattern", 1], cache["pattern", 1])
    with pytest.raises(StaleCache, match="not those"):
        ActivationCache.load(path, HookedTransformer(GPT2_LIKE | dict(seed=7)).to(torch.bfloat16))
    with pytest.raises(CannotLoad, match="bfloat16"):
        ActivationCache.load(path, HookedTransformer(GPT2_LIKE))


def test_points_that_are_passed_several_times_are_saved(path):
    model = HookedTransformer(GPT2_LIKE | dict(use_split_qkv_input=True))
    with model.hooks([("blocks.1.ln1.hook_scale", lambda x, hook: x * 2)]):
        _, cache = model.run_with_cache(TOKENS, lazy=True, pos_slice=(np.int64(1), np.int64(4)))
    cache.save(path)
    again = ActivationCache.load(path, model)
    for name in cache:
        torch.testing.assert_close(again[name], cache[name])


def test_other_kinds_of_model_and_files_with_half_a_description(model, path, tmp_path):
    model.run_with_cache(TOKENS)[1].save(path)
    with pytest.raises(CannotLoad, match=r"normalization_type=LN, but this model .* has normalization_type=RMS"):
        ActivationCache.load(path, HookedTransformer(LLAMA_LIKE))
    save_file({"x": torch.zeros(2)}, path, {"format": saving.FORMAT})
    with pytest.raises(CannotLoad, match="no activation cache"):
        ActivationCache.load(path, model)
    with pytest.raises(ValueError, match="is a directory"):
        model.run_with_cache(TOKENS)[1].save(tmp_path)
