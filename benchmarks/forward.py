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
import transformers
from timing import rounds

from tl_widgets import HookedTransformer

SHAPES = ((1, 1), (1, 15), (8, 15), (1, 128), (8, 128))


def main(seconds: float, threads: int) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    hf = transformers.GPT2LMHeadModel(transformers.GPT2Config()).eval()
    ours = HookedTransformer.from_pretrained_no_processing("gpt2", hf_model=hf)
    contenders: dict[str, Callable[[torch.Tensor], object]] = {
        "transformers": lambda tokens: hf(tokens).logits,
        "ours": ours,
        "ours, full cache": ours.run_with_cache,
    }
    try:
        import transformer_lens
    except ImportError:
        print("(transformer-lens is not installed: its columns are left out)")
    else:
        cfg = {name: getattr(ours.cfg, name) for name in ("n_layers", "d_model", "n_heads", "d_head", "d_mlp", "n_ctx")}
        theirs = transformer_lens.HookedTransformer(
            transformer_lens.HookedTransformerConfig(**cfg, d_vocab=ours.cfg.d_vocab, act_fn="gelu_new", device="cpu")
        )
        theirs.load_state_dict(ours.state_dict(), strict=False)
        contenders["TransformerLens"] = theirs
        contenders["TransformerLens, full cache"] = theirs.run_with_cache

    print(f"torch {torch.__version__}, {threads} threads; milliseconds (times transformers)")
    print(f"{'batch x tokens':16}" + "".join(f"{name:>30}" for name in contenders))
    with torch.no_grad():
        for batch, n_tokens in SHAPES:
            tokens = torch.randint(0, ours.cfg.d_vocab, (batch, n_tokens))
            medians = rounds({name: partial(f, tokens) for name, f in contenders.items()}, seconds)
            base = medians["transformers"]
            row = "".join(f"{1000 * m:>20.1f} ({m / base:6.2f}x)" for m in medians.values())
            print(f"{f'{batch} x {n_tokens}':16}{row}", flush=True)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=8, help="a row of the table")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    main(arguments.seconds, arguments.threads)
