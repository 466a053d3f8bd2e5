"""From the final residual stream of patched runs to a metric's values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import torch
from torch import Tensor

from tl_widgets.math.activations import apply_softcap
from tl_widgets.patching.corrupted import CorruptedRun, repeated
from tl_widgets.patching.layer import Strip, packed
from tl_widgets.patching.metrics import AnyMetric, Metric, at_positions, number
from tl_widgets.patching.patches import Patch

# Logits are made in slices of so many bytes: a vocabulary is some fifty times as wide as a residual stream.
_SLICE_BYTES = 128_000_000


class Readout(Protocol):
    """What a descent ends in."""

    reads: range
    baseline: Tensor  # scalar

    def __call__(self, strips: Sequence[Strip]) -> Iterator[tuple[list[Patch], Tensor]]:
        """Patches and their values, ``[n_patches]`` or ``[n_patches, batch]``."""


def readout_for(run: CorruptedRun, metric: AnyMetric, per_example: bool, structured: bool) -> Readout:
    """The readout that reads least."""
    if isinstance(metric, Metric) and (structured or per_example):
        return ReadingWhatIsSaid(run, metric, per_example)
    return ReadingEverything(run, metric)


class ReadingEverything:
    """For any callable: whole logits, of which only changed positions are computed."""

    def __init__(self, run: CorruptedRun, metric: AnyMetric) -> None:
        self.run = run
        self.metric = metric
        self.reads = range(run.n_pos)
        self.baseline = self._value(run.logits.clone())

    def __call__(self, strips: Sequence[Strip]) -> Iterator[tuple[list[Patch], Tensor]]:
        """See `Readout`."""
        of_run = self.run.logits
        for strip, logits in unembedded(self.run, strips):
            logits = logits.unflatten(0, (-1, self.run.batch))
            parts = [(of_run[:, : strip.start], each, of_run[:, strip.stop :]) for each in logits]
            yield strip.patches, torch.stack([self._value(torch.cat(part, dim=1)) for part in parts])

    def _value(self, logits: Tensor) -> Tensor:
        return torch.tensor(number(self.metric(logits)), dtype=torch.float64)


class ReadingWhatIsSaid:
    """For metrics that say which positions and tokens they read."""

    def __init__(self, run: CorruptedRun, metric: Metric, per_example: bool) -> None:
        self.run = run
        self.metric = metric
        self.per_example = per_example
        self.positions = metric.positions(run.batch, run.n_pos).to(run.tokens.device)
        self.reads = range(int(self.positions.min()), int(self.positions.max()) + 1)
        tokens = metric.known_tokens(run.batch, run.model.cfg.d_vocab_out)
        self.tokens = None if tokens is None else tokens.to(run.tokens.device)
        final = run.entering(run.model.cfg.n_layers)[:, self.reads.start : self.reads.stop]
        with torch.no_grad():
            self.of_run = _logits(run, final, self.tokens)
            self.baseline = self._values(self.of_run[None])[0]

    def __call__(self, strips: Sequence[Strip]) -> Iterator[tuple[list[Patch], Tensor]]:
        """See `Readout`."""
        for strip, logits in unembedded(self.run, strips, self.tokens):
            start, stop = strip.start - self.reads.start, strip.stop - self.reads.start
            if stop - start < len(self.reads):
                changed, logits = logits, repeated(self.of_run, len(strip.patches)).clone()
                logits[:, start:stop] = changed
            yield strip.patches, self._values(logits.unflatten(0, (-1, self.run.batch)))

    def _values(self, logits: Tensor) -> Tensor:
        """``[n, batch, pos, m]`` -> ``[n]`` or ``[n, batch]``."""
        values = self.metric.of(at_positions(logits, self.positions - self.reads.start))
        return (values if self.per_example else values.mean(-1)).double()


def unembedded(
    run: CorruptedRun, strips: Sequence[Strip], tokens: Tensor | None = None
) -> Iterator[tuple[Strip, Tensor]]:
    """Strips and their logits ``[n_patches * batch, pos, d_vocab]``, or of some `tokens` ``[batch, m]`` alone.

    Strips come back in pieces where the logits of all would be too much at once.
    """
    if tokens is not None:
        yield from ((strip, _logits(run, strip.x, tokens)) for strip in strips)
        return
    most_rows = max(1, _SLICE_BYTES // (run.model.cfg.d_vocab_out * run.logits.element_size()))
    for group in _groups(strips, most_rows, run.batch):
        logits = packed(lambda final: _logits(run, final, None), [piece.x for piece in group])
        yield from zip(group, logits, strict=True)


def _groups(strips: Sequence[Strip], most_rows: int, batch: int) -> Iterator[list[Strip]]:
    """The strips in pieces, as many together as have `most_rows` rows."""
    group: list[Strip] = []
    free = most_rows
    for strip in strips:
        per_patch = batch * (strip.stop - strip.start)
        done = 0
        while done < len(strip.patches):
            n = max(free // per_patch, 0 if group else 1)
            if n:
                group.append(strip.of_patches(done, done + n, batch))
                done += len(group[-1].patches)
                free -= per_patch * len(group[-1].patches)
            else:
                yield group
                group, free = [], most_rows
    if group:
        yield group


def _logits(run: CorruptedRun, final: Tensor, tokens: Tensor | None) -> Tensor:
    """``[n * batch, pos, d_model]`` -> logits, of all tokens or of each example's own, ``[n * batch, pos, m]``."""
    model = run.model
    normalized = model.normalize(final)
    if tokens is None:
        return model.to_logits(normalized)
    directions = model.unembed.W_U.T[tokens].transpose(1, 2)  # [batch, d_model, m]
    by_example = normalized.unflatten(0, (-1, run.batch)).transpose(0, 1).flatten(1, 2)  # [batch, n * pos, d_model]
    logits = by_example @ directions + model.unembed.b_U[tokens][:, None]
    logits = logits.unflatten(1, (-1, final.shape[1])).transpose(0, 1).flatten(0, 1)
    return apply_softcap(logits, model.cfg.output_logits_soft_cap)
