"""Forward passes and full caches beside transformers (sdpa) and TransformerLens, on the same weights, in one run.

``python benchmarks/forward.py`` prints medians and ratios to transformers. The shape is GPT-2 small's, the weights are
random, and everybody gets the same threads.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch
from models import ours_and_transformers, the_oracle
from timing import as_row, rounds

SHAPES = ((1, 1), (1, 15), (8, 15), (1, 128), (8, 128))


def main(seconds: float, threads: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    ours, hf = ours_and_transformers()
    contenders: dict[str, Callable[[torch.Tensor], object]] = {
        "transformers": lambda tokens: hf(tokens).logits,
        "ours": ours,
        "ours, full cache": ours.run_with_cache,
    }
    theirs = the_oracle(ours)
    if theirs is not None:
        contenders["TransformerLens"] = theirs
        contenders["TransformerLens, full cache"] = theirs.run_with_cache

    print(f"torch {torch.__version__}, {threads} threads; milliseconds (times transformers)")
    print(f"{'batch x tokens':16}" + "".join(f"{name:>30}" for name in contenders))
    with torch.no_grad():
        for batch, n_tokens in SHAPES:
            tokens = torch.randint(0, ours.cfg.d_vocab, (batch, n_tokens))
            medians = rounds({name: partial(f, tokens) for name, f in contenders.items()}, seconds)
            print(f"{f'{batch} x {n_tokens}':16}{as_row(medians)}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="a row of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.threads)
