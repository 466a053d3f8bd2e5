"""One line says whether the real model is the one that transformers runs."""

from __future__ import annotations

import pytest

from tl_widgets import compare_with_hf
from tl_widgets.loading import gguf, names


@pytest.mark.slow
@pytest.mark.parametrize("which", ["raw", "processed"])
def test_smollm2_agrees_with_transformers(which, request):
    model = request.getfixturevalue(which)
    prompts = ["When Mary and John went to the store, John gave a drink to", "The Eiffel Tower is in"]
    result = compare_with_hf(model, prompts)  # padded: only real tokens count
    assert result.agrees and result.top1_agreement == 1 and result.n_tokens == 15 + 7
    assert model.loaded_from == gguf.as_directory(names.packaged_gguf("HuggingFaceTB/SmolLM2-135M-Instruct"))
