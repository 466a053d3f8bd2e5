"""`compare_with_hf`: says that right models are right, and that wrong ones are wrong."""

from __future__ import annotations

import pytest
import torch

from tests.engine.test_loading import MODELS, TOKENS, gpt2, llama
from tl_widgets import HookedTransformer, compare_with_hf


@pytest.fixture(params=MODELS.values(), ids=MODELS.keys())
def hf_model(request):
    torch.manual_seed(0)
    model = request.param()
    for parameter in model.parameters():
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("load", ["from_pretrained", "from_pretrained_no_processing"])
def test_a_loaded_model_agrees(hf_model, load, capsys):
    model = getattr(HookedTransformer, load)("random", hf_model=hf_model)
    hf_model.train()  # dropout would make the difference
    result = compare_with_hf(model, TOKENS, hf_model)
    assert result.agrees and result.top1_agreement == 1 and result.n_tokens == TOKENS.numel()
    assert len(result.resid_pre) == model.cfg.n_layers and max(result.resid_pre) < 1e-4
    assert hf_model.training
    assert "agrees with transformers" in capsys.readouterr().out


def test_the_figures_are_what_they_say():
    hf_model = gpt2().eval()
    model = HookedTransformer.from_pretrained_no_processing("random", hf_model=hf_model)
    model.unembed.b_U.data[7] += 0.5
    result = compare_with_hf(model, TOKENS, hf_model)
    with torch.no_grad():
        ours, theirs = model(TOKENS), hf_model(TOKENS).logits
    expected = (ours.log_softmax(-1) - theirs.log_softmax(-1)).abs().max().item()
    assert result.log_probs == pytest.approx(expected, rel=1e-4) and not result.agrees
    divergence = torch.nn.functional.kl_div(ours.log_softmax(-1), theirs.softmax(-1), reduction="none").sum(-1)
    assert result.kl == pytest.approx(divergence.max().item(), rel=1e-3)
    assert result.logits == pytest.approx(0.5 * 60 / 61, rel=1e-4)
    assert max(result.resid_pre) < 1e-5
    assert result.top1_agreement == pytest.approx((ours.argmax(-1) == theirs.argmax(-1)).float().mean().item())


@pytest.mark.parametrize("part", ["blocks.1.mlp.b_out", "blocks.0.attn.b_O", "unembed.b_U"])
@pytest.mark.parametrize("value", [0.5, float("nan")])
def test_a_wrong_model_does_not_agree(part, value, capsys):
    hf_model = gpt2().eval()
    model = HookedTransformer.from_pretrained("random", hf_model=hf_model)
    model.get_parameter(part).data[3] += value
    assert not compare_with_hf(model, TOKENS, hf_model).agrees
    assert "DOES NOT AGREE" in capsys.readouterr().out


def test_a_model_remembers_where_it_came_from(tmp_path):
    llama(num_key_value_heads=2).save_pretrained(tmp_path)
    model = HookedTransformer.from_pretrained(str(tmp_path))
    assert compare_with_hf(model, TOKENS).agrees
    assert model.loaded_from == tmp_path


def test_mistakes(tmp_path):
    hf_model = gpt2()
    with pytest.raises(ValueError, match="pass the transformers model"):
        compare_with_hf(HookedTransformer.from_pretrained("random", hf_model=hf_model), TOKENS)
    with pytest.raises(TypeError, match="a transformers model, not 'gpt2'"):
        compare_with_hf(HookedTransformer.from_pretrained("random", hf_model=hf_model), TOKENS, "gpt2")
    shorter = HookedTransformer.from_pretrained("random", hf_model=hf_model, first_n_layers=2)
    with pytest.raises(ValueError, match="3 layers and model 2"):
        compare_with_hf(shorter, TOKENS, hf_model)
    assert not any(point.has_hooks() for point in shorter.hook_points())
