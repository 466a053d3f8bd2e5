"""SmolLM2-135M-Instruct: the real model, against transformers on the same file."""

from __future__ import annotations

import pytest
import torch

from tl_widgets.loading import gguf
from tl_widgets.loading.names import packaged_gguf

IOI = "When Mary and John went to the store, John gave a drink to"
EIFFEL = "The Eiffel Tower is in the city of"


@pytest.fixture(scope="module")
def hf():
    from transformers import AutoModelForCausalLM

    path = packaged_gguf("HuggingFaceTB/SmolLM2-135M-Instruct")
    return AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.float32).eval()


@torch.no_grad()
@pytest.mark.parametrize("prepend_bos", [True, False])
@pytest.mark.parametrize("prompt", [IOI, EIFFEL])
def test_logits_and_log_probabilities_agree_at_every_position(hf, raw, processed, prompt, prepend_bos):
    tokens = raw.to_tokens(prompt, prepend_bos=prepend_bos)
    expected = hf(tokens).logits
    torch.testing.assert_close(raw(tokens), expected, atol=1e-3, rtol=0)
    watched, _ = raw.run_with_cache(tokens)
    torch.testing.assert_close(watched, expected, atol=1e-3, rtol=0)
    torch.testing.assert_close(processed(tokens).log_softmax(-1), expected.log_softmax(-1), atol=1e-3, rtol=0)


@torch.no_grad()
@pytest.mark.parametrize(
    "prompt, answer, prepend_bos, probability",
    [
        (IOI, " Mary", True, 0.84),
        (IOI, " Mary", False, 0.92),
        (EIFFEL, " Paris", True, 0.43),
        (EIFFEL, " Paris", False, 0.66),
    ],
)
def test_what_it_says(raw, processed, prompt, answer, prepend_bos, probability):
    for model in (raw, processed):
        probabilities = model(prompt, prepend_bos=prepend_bos)[0, -1].softmax(-1)
        assert model.to_string(probabilities.argmax()) == answer
        assert probabilities[model.to_single_token(answer)].item() == pytest.approx(probability, abs=0.01)


def test_default_bos_is_prepended_once(raw):
    assert raw.to_str_tokens(EIFFEL)[:2] == ["<|im_start|>", "The"]
    assert raw.to_str_tokens(EIFFEL, prepend_bos=False)[0] == "The"
    assert raw.to_str_tokens("<|im_start|>user")[:2] == ["<|im_start|>", "user"]
    assert raw.to_string(raw.to_tokens(EIFFEL, prepend_bos=False)) == [EIFFEL]
    assert raw.to_string(raw.to_tokens(EIFFEL, prepend_bos=False)[0]) == EIFFEL


@torch.no_grad()
@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_batch_of_unequal_prompts_says_what_each_says_alone(raw, padding_side):
    prompts = [EIFFEL, IOI]
    logits, cache = raw.run_with_cache(prompts, padding_side=padding_side)
    for i, prompt in enumerate(prompts):
        alone = raw(prompt)[0]
        row = logits[i, -len(alone) :] if padding_side == "left" else logits[i, : len(alone)]
        torch.testing.assert_close(row, alone, atol=1e-3, rtol=0)
    # As tokens the padding is found again by its side.
    tokens = raw.to_tokens(prompts, padding_side=padding_side)
    torch.testing.assert_close(raw(tokens, padding_side=padding_side), logits, atol=1e-3, rtol=0)
    assert cache.mask.sum(-1).tolist() == [10, 15]


def test_token_methods(raw):
    assert raw.to_single_token(" Mary") == 5099
    assert raw.to_single_str_token(raw.to_single_token(" Mary")) == " Mary"
    with pytest.raises((ValueError, AssertionError), match="not one token but 3"):
        raw.to_single_token("Eiffel Tower")
    assert raw.to_str_tokens([EIFFEL, "Hi"])[1] == ["<|im_start|>", "Hi"]
    assert raw.to_str_tokens(raw.to_tokens("Hi")) == ["<|im_start|>", "Hi"]


@pytest.mark.parametrize(
    "bad, error, message",
    [
        ("", ValueError, "has no tokens"),
        (["fine", ""], ValueError, "has no tokens"),
        ([], ValueError, "no tokens|no prompt"),
        (["fine", 3], TypeError, "list of strings"),
        (torch.tensor([[1, 49152]]), ValueError, "49152 is outside.*0 to 49151"),
        (torch.tensor([[1, -1]]), ValueError, "-1 is outside"),
        (torch.zeros(1, 8193, dtype=torch.long), ValueError, "8193 tokens are more than.*8192"),
        (torch.zeros(1, 3), TypeError, "whole numbers.*start_at_layer"),
        (torch.zeros(1, 2, 3, dtype=torch.long), ValueError, r"\[1, 2, 3\]"),
        (torch.zeros(1, 0, dtype=torch.long), ValueError, "no tokens"),
    ],
    ids=str,
)
def test_bad_input_is_a_clear_error_and_loses_nothing(raw, bad, error, message):
    with pytest.raises(error, match=message):
        raw.run_with_cache(bad, prepend_bos=False)
    assert not any(point.has_hooks() for point in raw.hook_points())


def test_an_empty_prompt_with_bos_is_the_bos(raw):
    assert raw("").shape[1] == 1


def test_a_longer_string_is_cut_with_a_warning(raw):
    with pytest.warns(UserWarning, match="cut to the first 8192"):
        tokens = raw.to_tokens(" word" * 9000)
    assert tokens.shape == (1, 8192)


def test_a_gguf_is_dequantised_once(raw, capsys):
    type(raw).from_pretrained_no_processing("smollm2-135m-instruct", first_n_layers=1)
    assert "first time" not in capsys.readouterr().out


def test_a_kept_gguf_that_lost_a_file_is_made_again(tmp_path, monkeypatch):
    made = []
    monkeypatch.setenv("TL_WIDGETS_CACHE", str(tmp_path))
    monkeypatch.setattr(gguf, "_dequantise", lambda path, folder: made.append((folder / "weights").write_text("")))
    path = packaged_gguf("HuggingFaceTB/SmolLM2-135M-Instruct")
    kept = gguf.as_directory(path)
    assert gguf.as_directory(path) == kept and len(made) == 1
    (kept / "complete").unlink()
    assert gguf.as_directory(path) == kept and len(made) == 2 and (kept / "complete").exists()
    assert [folder.name for folder in kept.parent.iterdir()] == [kept.name]
