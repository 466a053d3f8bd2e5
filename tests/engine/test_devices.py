"""Devices and dtypes: the config says where the model is, and nothing is printed unless asked for."""

from __future__ import annotations

import pytest
import torch

from tests.engine.oracle import GPT2_LIKE, LLAMA_LIKE
from tl_widgets import HookedTransformer
from tl_widgets.network.devices import get_device_for_block_index

TOKENS = torch.tensor([[5, 9, 17, 30]])


def test_the_config_stays_true(capsys):
    model = HookedTransformer(GPT2_LIKE)
    for call, dtype in (
        (lambda: model.to(torch.float64), torch.float64),
        (lambda: model.to("cpu"), torch.float64),
        (lambda: model.to("cpu", torch.bfloat16), torch.bfloat16),
        (lambda: model.to(dtype=torch.float32), torch.float32),
        (lambda: model.cpu(), torch.float32),
        (lambda: model.to(torch.zeros(1, dtype=torch.float64)), torch.float64),
    ):
        assert call() is model
        assert (model.cfg.device, model.cfg.dtype) == ("cpu", dtype)
        assert model.blocks[1].mlp.W_in.dtype == dtype
    assert capsys.readouterr().out == ""
    model.to(torch.float32, print_details=True)
    assert "float32" in capsys.readouterr().out
    model.to("meta")
    assert model.cfg.device == "meta"


def test_devices_that_are_not_there_are_clear_errors(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    model = HookedTransformer(GPT2_LIKE)
    with pytest.raises(ValueError, match="no CUDA device"):
        model.cuda()
    with pytest.raises(ValueError, match="no MPS device"):
        model.mps()
    with pytest.raises((ValueError, AssertionError), match=r"n_devices=2.* has 0 CUDA devices"):
        HookedTransformer(GPT2_LIKE | dict(n_devices=2, device="cuda"))
    assert model.cfg.device == "cpu"


def test_layers_are_split_in_order():
    cfg = HookedTransformer(GPT2_LIKE | dict(n_layers=7)).cfg
    assert {get_device_for_block_index(i, cfg) for i in range(7)} == {torch.device("cpu")}
    cfg.device, cfg.n_devices = "cuda", 3
    assert [get_device_for_block_index(i, cfg).index for i in range(7)] == [0, 0, 0, 1, 1, 2, 2]


@pytest.mark.parametrize("config", [GPT2_LIKE, LLAMA_LIKE], ids=["gpt2-like", "llama-like"])
def test_the_stream_follows_the_layers_from_device_to_device(config):
    """Shapes only on the second device ("meta" computes nothing), which every machine has."""
    model = HookedTransformer(config)
    for part in (model.blocks[1], model.ln_final, model.unembed):
        part.to("meta")
    model.cfg.n_devices = 2
    mask = torch.tensor([[0, 1, 1, 1]])
    seen = []
    fwd_hooks = [(f"blocks.{i}.attn.hook_pattern", lambda x, hook: seen.append(x.device.type)) for i in (0, 1)]
    for options in (dict(), dict(attention_mask=mask)):
        logits = model.run_with_hooks(TOKENS, fwd_hooks=fwd_hooks, **options)
        assert logits.shape == (1, 4, 50) and logits.device.type == "meta"
    assert seen == ["cpu", "meta"] * 2


def test_move_model_modules_to_device():
    model = HookedTransformer(GPT2_LIKE)
    model.cfg.device = "meta"
    model.move_model_modules_to_device()
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
