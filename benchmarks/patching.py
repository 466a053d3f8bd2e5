"""Patching sweeps beside TransformerLens's loop, on the same weights; and with each of our ideas switched off.

``python benchmarks/patching.py`` prints seconds and ratios. The shape is GPT-2 small's, the weights are random, the
prompts have 15 tokens and part half-way. The loop makes the same pass for every place, so it is timed on some of them,
in turn with ours, and scaled up: the table says on how many.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import io
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import torch
from models import ours_and_transformers, the_oracle

from tl_widgets import patching
from tl_widgets.patching.options import ALL

N_TOKENS, PART = 15, 7


def in_one_layer(layer: int):
    def pattern_dest_src(model, corrupted, clean, metric, **options):
        rows = [[layer, *place] for place in patching.make_df_from_ranges([12, N_TOKENS, N_TOKENS], "hds").to_numpy()]
        index_df = patching.make_df_from_ranges([len(rows)], ["layer"]).assign(layer=layer)
        for column, axis in enumerate(("head_index", "dest_pos", "src_pos"), start=1):
            index_df[axis] = [int(row[column]) for row in rows]
        return patching.get_act_patch_attn_head_pattern_dest_src_pos(
            model, corrupted, clean, metric, index_axis_names=None, index_df=index_df, **options
        )

    return pattern_dest_src


SWEEPS: dict[str, tuple[int, Callable[..., torch.Tensor]]] = {
    "resid_pre by layer, pos": (12 * 15, patching.get_act_patch_resid_pre),
    "z by layer, pos, head": (12 * 15 * 12, patching.get_act_patch_attn_head_out_by_pos),
    "head_all by layer, head": (5 * 144, patching.get_act_patch_attn_head_all_pos_every),
    "pattern dest-src, layer 5": (12 * 15 * 15, in_one_layer(5)),
}


def logit_difference(logits: torch.Tensor) -> torch.Tensor:
    return logits[0, -1, 5] - logits[0, -1, 6]


def main(threads: int, places: int, repeats: int, only: str) -> None:
    warnings.filterwarnings("ignore")
    torch.set_num_threads(threads)
    ours, _ = ours_and_transformers()
    theirs = the_oracle(ours)
    clean = torch.randint(0, ours.cfg.d_vocab, (1, N_TOKENS), generator=torch.Generator().manual_seed(0))
    corrupted = clean.clone()
    corrupted[0, PART] = 11
    _, our_clean = ours.run_with_cache(clean)
    structured = patching.LogitDiff(answer=5, wrong=6)
    print(f"torch {torch.__version__}, {threads} threads; {N_TOKENS} tokens that part at the {PART}th; seconds")

    with torch.no_grad():
        their_clean = None if theirs is None else theirs.run_with_cache(clean)[1]
    for title, (n_places, sweep) in SWEEPS.items():
        if only not in title:
            continue
        contenders = {"ours, structured metric": (structured, ALL), "ours, any lambda": (logit_difference, ALL)}
        for field in fields(ALL):
            contenders[f"ours, without {field.name}"] = (structured, replace(ALL, **{field.name: False}))
        per_place = [] if theirs is None else [loop(theirs, corrupted, their_clean, places)]
        seconds: dict[str, float] = {}
        for name, (metric, shortcuts) in contenders.items():
            times = []
            for _ in range(repeats if shortcuts == ALL else 1):
                start = time.perf_counter()
                sweep(ours, corrupted, our_clean, metric, progress=False, shortcuts=shortcuts)
                times.append(time.perf_counter() - start)
            seconds[name] = statistics.median(times)
            if theirs is not None and shortcuts == ALL:
                per_place.append(loop(theirs, corrupted, their_clean, places))
        peaks = {
            name: peak_of(partial(sweep, ours, corrupted, our_clean, metric, progress=False))
            for name, metric in (("ours, structured metric", structured), ("ours, any lambda", logit_difference))
        }
        their_seconds = statistics.median(per_place) * n_places if per_place else None
        print(f"\n{title}: {n_places} places")
        if their_seconds is not None:
            sample = f"(on {places * len(per_place)} passes)"
            print(f"{'TransformerLens':32}{their_seconds:10.2f} {sample}")
        for name, each in seconds.items():
            print(f"{name:32}{each:10.2f}" + (f"{their_seconds / each:10.1f}x" if their_seconds else ""))
        if theirs is not None:
            peaks["TransformerLens"] = peak_of(partial(loop, theirs, corrupted, their_clean, 3))
        print("peak memory: " + ", ".join(f"{name} {peak:.0f} MB" for name, peak in peaks.items()), flush=True)


def peak_of(call: Callable[[], object]) -> float:
    """Megabytes that the process holds at most during a call, beyond what it held before (Linux)."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)  # what was freed is not to be had for nothing
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again here
    before = _status("VmRSS")
    call()
    return (_status("VmHWM") - before) / 1024


def _status(field: str) -> int:
    words = Path("/proc/self/status").read_text().split()
    return int(words[words.index(f"{field}:") + 1])


def loop(theirs, corrupted, their_clean, places: int) -> float:
    """Seconds a place of the oracle's loop, over some places."""
    import transformer_lens.patching as oracle

    index_df = patching.make_df_from_ranges([12, N_TOKENS], ["layer", "pos"]).sample(places, random_state=0)
    start = time.perf_counter()
    with torch.no_grad(), contextlib.redirect_stderr(io.StringIO()):
        oracle.get_act_patch_resid_pre(
            theirs, corrupted, their_clean, logit_difference, index_axis_names=None, index_df=index_df
        )
    return (time.perf_counter() - start) / places


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--places", type=int, default=12, help="of the oracle's loop, each time")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="", help="part of a sweep's title")
    arguments = parser.parse_args()
    main(arguments.threads, arguments.places, arguments.repeats, arguments.only)
