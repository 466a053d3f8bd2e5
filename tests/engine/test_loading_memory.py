"""What loading and processing hold at most: the weights, one layer, and little else."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
import transformers

LAYERS = 8
# In a process of its own, which has loaded a tiny model before, so that imports do not count. Resident memory at its
# peak, pages of the files included.
CODE = """
import json, sys
from pathlib import Path
from tl_widgets import HookedTransformer

def resident(field):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))

HookedTransformer.from_pretrained(sys.argv[1])
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident("VmRSS")
model = HookedTransformer.from_pretrained(sys.argv[2])
weights = sum(p.numel() * p.element_size() for p in model.parameters())
print(json.dumps([resident("VmHWM") - before, weights]))
"""


def gpt2(width, n_layer):
    config = transformers.GPT2Config(vocab_size=4000, n_positions=64, n_embd=width, n_layer=n_layer, n_head=4)
    return transformers.GPT2LMHeadModel(config)


def llama(width, n_layer):
    config = transformers.LlamaConfig(
        vocab_size=4000, max_position_embeddings=64, hidden_size=width, intermediate_size=4 * width,
        num_hidden_layers=n_layer, num_attention_heads=4, num_key_value_heads=2,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("build", [gpt2, llama])
def test_a_model_is_never_held_twice(build, dtype, tmp_path):
    build(32, 1).save_pretrained(tmp_path / "tiny")
    build(768, LAYERS).to(dtype).save_pretrained(tmp_path / "model", max_shard_size="100MB")
    command = [sys.executable, "-W", "ignore", "-c", CODE, str(tmp_path / "tiny"), str(tmp_path / "model")]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    peak, weights = json.loads(printed.splitlines()[-1])
    assert weights > 200 * 2**20
    assert peak < weights + weights / LAYERS + 16 * 2**20
