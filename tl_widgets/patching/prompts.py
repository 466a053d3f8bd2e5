"""Two prompts that go together token by token, and what their answers are."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.metrics import AnswerLogit, LogitDiff, Metric
from tl_widgets.results import token_text


def run_of(model: Any, prompts: Any, prepend_bos: bool | None) -> CorruptedRun:
    """Run text or tokens."""
    batch = model.read(prompts, prepend_bos)
    return CorruptedRun(model, batch.tokens, batch.mask)


def mask_of(run: CorruptedRun) -> Tensor:
    """``[batch, pos]``, 0 for padding."""
    return torch.ones_like(run.tokens) if run.tokens_mask is None else run.tokens_mask


def check_alike(model: Any, clean: CorruptedRun, corrupted: CorruptedRun) -> None:
    """Raise unless the runs go together token by token; the error shows where they do not."""
    if clean.batch != corrupted.batch:
        raise BadInput(f"There are {clean.batch} clean prompts and {corrupted.batch} corrupted ones: give as many.")
    for example in range(clean.batch):
        rows = [
            [token_text(model, int(token)) for token in run.tokens[example][mask_of(run)[example].bool()]]
            for run in (clean, corrupted)
        ]
        if len(rows[0]) == len(rows[1]):
            continue
        parts = next((i for i, (a, b) in enumerate(zip(*rows, strict=False)) if a != b), min(map(len, rows)))
        which = f" of pair {example}" if clean.batch > 1 else ""
        shown = "\n".join(
            f"  {name:9} ({len(row):2})  {'|'.join(row[:parts])}  >>>  {'|'.join(row[parts:])}"
            for name, row in zip(("clean", "corrupted"), rows, strict=True)
        )
        raise BadInput(f"The prompts{which} have to be of one length, token by token; they part at >>>:\n{shown}")
    if clean.tokens.shape != corrupted.tokens.shape:
        raise BadInput(f"Padded, the prompts are {list(clean.tokens.shape)} and {list(corrupted.tokens.shape)}.")


def metric_of(model: Any, clean: CorruptedRun, answer: Any, wrong: Any) -> Metric:
    """The logit of the answer, or its difference from the wrong one's, at each prompt's last token."""
    if answer is None:
        raise BadInput("Say what to measure: answer= (and wrong=), or a metric=.")
    last = clean.n_pos - 1 - mask_of(clean).flip(-1).argmax(-1)  # the last token that is no padding
    right = _ids(model, "answer", answer, clean.batch)
    return (
        AnswerLogit(right, last) if wrong is None else LogitDiff(right, _ids(model, "wrong", wrong, clean.batch), last)
    )


def _ids(model: Any, name: str, given: Any, batch: int) -> Tensor:
    given = given.flatten().tolist() if isinstance(given, Tensor) else given
    many = [given] if isinstance(given, (str, int)) else list(given)
    if len(many) not in (1, batch):
        raise BadInput(f"{name} has {len(many)} tokens for {batch} pairs: give one, or one for each.")
    return torch.tensor([model.to_single_token(each) if isinstance(each, str) else int(each) for each in many])
