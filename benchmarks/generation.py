"""Fifty tokens, greedily, beside transformers' and TransformerLens's `generate`, on the same weights, in one run.

``python benchmarks/generation.py`` prints medians and ratios to transformers. The shape is GPT-2 small's, the weights
are random, and everybody gets the same threads. Nobody stops at EOS.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from functools import partial

import torch
import transformers
from models import ours_and_transformers, the_oracle
from timing import as_row, rounds

N_NEW = 50
SHAPES = ((1, 15), (8, 15), (1, 128), (8, 128))


def main(seconds: float, threads: int) -> None:
    warnings.filterwarnings("ignore")
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(threads)
    ours, hf = ours_and_transformers()
    hf.generation_config.eos_token_id = None
    greedy = dict(do_sample=False, max_new_tokens=N_NEW)
    hooked = greedy | dict(verbose=False, stop_at_eos=False)

    def in_transformers(tokens: torch.Tensor) -> torch.Tensor:
        everything = torch.ones_like(tokens)
        return hf.generate(tokens, attention_mask=everything, **greedy)

    contenders: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "transformers": in_transformers,
        "ours": partial(ours.generate, **hooked),
        "ours, no cache": partial(ours.generate, use_past_kv_cache=False, **hooked),
    }
    theirs = the_oracle(ours)
    if theirs is not None:
        # It counts positions twice where there is a cache and no tokenizer (same work for the first tokens, then more).
        contenders["TransformerLens, no cache"] = partial(theirs.generate, use_past_kv_cache=False, **hooked)

    print(f"torch {torch.__version__}, {threads} threads; milliseconds for {N_NEW} tokens (times transformers)")
    print(f"{'batch x prompt':16}" + "".join(f"{name:>30}" for name in contenders))
    for batch, n_tokens in SHAPES:
        tokens = torch.randint(0, ours.cfg.d_vocab, (batch, n_tokens))
        said = {name: generate(tokens) for name, generate in contenders.items()}
        differing = [name for name, out in said.items() if not torch.equal(out, said["transformers"])]
        medians = rounds({name: partial(f, tokens) for name, f in contenders.items()}, seconds)
        note = f"  other tokens: {', '.join(differing)}" if differing else ""
        print(f"{f'{batch} x {n_tokens}':16}{as_row(medians)}{note}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=20, help="a row of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.threads)
