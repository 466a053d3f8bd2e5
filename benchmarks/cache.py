"""Caches beside a plain forward pass: time and memory of the full kind and of the lazy one; head and neuron stacks.

``python benchmarks/cache.py`` prints medians, ratios and bytes. The shape is GPT-2 small's, the weights are random; the
oracle (TransformerLens) stands beside ours where it has the same thing.
"""

from __future__ import annotations

import argparse
import warnings
from functools import partial

import torch
from models import ours_and_transformers, the_oracle
from timing import as_row, rounds

TOKENS = (128, 1024)


def main(seconds: float, threads: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    ours, _ = ours_and_transformers()
    theirs = the_oracle(ours)
    print(f"torch {torch.__version__}, {threads} threads; milliseconds (times the first column)")
    with torch.no_grad():
        for n_tokens in TOKENS:
            tokens = torch.randint(0, ours.cfg.d_vocab, (1, n_tokens))
            runs(ours, theirs, tokens, seconds)
            memory(ours, tokens)
        stacks(ours, theirs, torch.randint(0, ours.cfg.d_vocab, (1, 64)), seconds)


def runs(ours, theirs, tokens, seconds: float) -> None:
    contenders = {
        "plain": partial(ours, tokens),
        "lazy cache": partial(ours.run_with_cache, tokens, lazy=True),
        "full cache": partial(ours.run_with_cache, tokens),
    }
    if theirs is not None:
        contenders["TransformerLens, full cache"] = partial(theirs.run_with_cache, tokens)
    print(f"\nA run of {tokens.shape[1]} tokens")
    _print(contenders, seconds)


def memory(ours, tokens) -> None:
    _, full = ours.run_with_cache(tokens)
    _, lazy = ours.run_with_cache(tokens, lazy=True)
    print(
        f"full {full.nbytes / 1e6:.1f} MB, lazy {lazy.nbytes / 1e6:.1f} MB: {100 * lazy.nbytes / full.nbytes:.1f}%; "
        f"largest difference {max(map(_difference, full.values(), map(lazy.__getitem__, full))):.1e} of the scale"
    )


def stacks(ours, theirs, tokens, seconds: float) -> None:
    everyone = {"ours": ours} | ({} if theirs is None else {"TransformerLens": theirs})
    caches = {name: model.run_with_cache(tokens)[1] for name, model in everyone.items()}
    along = dict(project_output_onto=ours.W_U[:, 7])
    for title, method, options in (
        ("Heads of all layers", "stack_head_results", dict(layer=-1)),
        (
            "Neurons of all layers along one direction",
            "stack_neuron_results",
            dict(layer=-1, **along),
        ),
        ("Everything along one direction", "get_full_resid_decomposition", along),
    ):
        print(f"\n{title}, {tokens.shape[1]} tokens")
        _print({name: partial(_fresh, cache, method, options) for name, cache in caches.items()}, seconds)


def _fresh(cache, method: str, options: dict) -> object:
    """Call a method on a copy that shares the activations: what a call stores helps no later one."""
    copy = type(cache)(dict(cache.cache_dict), cache.model)
    return getattr(copy, method)(**options)


def _difference(full: torch.Tensor, lazy: torch.Tensor) -> float:
    finite = full.isfinite()
    return float((full[finite] - lazy[finite]).abs().max() / full[finite].abs().max())


def _print(contenders: dict, seconds: float) -> None:
    medians = rounds(contenders, seconds)
    print("".join(f"{name:>30}" for name in contenders))
    print(as_row(medians, base=next(iter(contenders))), flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="a row of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.threads)
