"""Loading a directory of safetensors beside transformers: time, and memory at its peak, on the same files, in one run.

``python benchmarks/loading.py`` writes random weights of two shapes to a temporary directory and prints medians. Every
load has a process to itself, which has loaded a tiny model of the family before, so that imports count for nobody.

transformers leaves float32 weights where they are, in the file, until somebody reads them: so the clock stops after a
first forward pass. Files in bfloat16 have to be converted by both. Memory is what the process holds at most (resident,
pages of the files included), beyond what it held before. Linux only.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers

MEGABYTE = 2**20
CONTENDERS = ("transformers", "ours, no processing", "ours")


def gpt2(**changes: int) -> Any:
    return transformers.GPT2LMHeadModel(transformers.GPT2Config(**changes))


def llama(**changes: int) -> Any:
    sizes = dict(
        vocab_size=32000, hidden_size=768, intermediate_size=2048, num_hidden_layers=12, num_attention_heads=12,
        num_key_value_heads=4,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**sizes | changes))


TINY = {
    gpt2: dict(vocab_size=61, n_embd=24, n_layer=1, n_head=3),
    llama: dict(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4,
        num_key_value_heads=4,
    ),
}  # fmt: skip


def load(who: str, folder: str) -> Any:
    if who == "transformers":
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    from tl_widgets import HookedTransformer

    if who == "ours":
        return HookedTransformer.from_pretrained(folder)
    return HookedTransformer.from_pretrained_no_processing(folder)


def resident(field: str) -> int:
    """Bytes: ``VmRSS`` now, or ``VmHWM`` at its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


@torch.no_grad()
def measure(who: str, folder: str, tiny: str) -> dict[str, float]:
    """Seconds to load, seconds until the first logits, and bytes at the peak of loading."""
    tokens = torch.arange(15)[None]
    load(who, tiny)(tokens)
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak starts anew
    before, start = resident("VmRSS"), time.perf_counter()
    model = load(who, folder)
    loaded, peak = time.perf_counter(), resident("VmHWM")
    model(tokens)
    weights = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
    seconds = dict(load=loaded - start, first_logits=time.perf_counter() - start)
    return seconds | dict(peak=peak - before, weights=weights)


def measured_apart(who: str, folder: Path, tiny: Path, threads: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--threads", str(threads), "--measure", who, str(folder), str(tiny)]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def written(folder: Path) -> Iterator[tuple[str, Path, Path]]:
    """Label, directory and tiny directory of each case."""
    for build in (gpt2, llama):
        tiny = folder / f"tiny-{build.__name__}"
        build(**TINY[build]).save_pretrained(tiny)
        for dtype in (torch.float32, torch.bfloat16):
            label = f"{build.__name__}, {str(dtype).removeprefix('torch.')}"
            build().to(dtype).save_pretrained(folder / label, max_shard_size="100MB")
            yield label, folder / label, tiny


def main(rounds: int, threads: int) -> None:
    print(f"torch {torch.__version__}, {threads} threads; seconds to load / to first logits, megabytes at the peak")
    print(f"{'files':20}" + "".join(f"{name:>32}" for name in CONTENDERS))
    with tempfile.TemporaryDirectory() as folder:
        for label, case, tiny in written(Path(folder)):
            runs = [{who: measured_apart(who, case, tiny, threads) for who in CONTENDERS} for _ in range(rounds)]
            cells = []
            for who in CONTENDERS:
                each = {key: statistics.median(run[who][key] for run in runs) for key in runs[0][who]}
                cells.append(
                    f"{each['load']:.2f} / {each['first_logits']:.2f}, "
                    f"{each['peak'] / MEGABYTE:.0f} of {each['weights'] / MEGABYTE:.0f}"
                )
            print(f"{label:20}" + "".join(f"{cell:>32}" for cell in cells), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--measure", nargs=3, metavar=("WHO", "FOLDER", "TINY"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    if arguments.measure:
        with contextlib.redirect_stdout(io.StringIO()):
            result = measure(*arguments.measure)
        print(json.dumps(result))
    else:
        main(arguments.rounds, arguments.threads)
