"""A sweep in pieces, each complete in itself, that any executor can run: threads, processes, other machines.

A piece is plain data and goes through `pickle`, its model included; so setter and metric must be functions of a module
(or the executor's own pickler must know better). There is no scheduler here.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor, as_completed
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.engine import Finished, here
from tl_widgets.patching.metrics import AnyMetric
from tl_widgets.patching.options import Options
from tl_widgets.patching.patches import Sites

# Each piece runs the corrupted prompts once: enough to keep some workers busy, few enough for that not to matter.
_PIECES = 16
# Hooks are the model's, not the thread's.
_ONE_AT_A_TIME = threading.Lock()


class CleanActivations(dict[str, Tensor]):
    """The clean activations that a piece needs, by full name, and what is known of their prompts."""

    tokens: Tensor | None = None
    mask: Tensor | None = None


@dataclass(frozen=True)
class Piece:
    """Some of a sweep's indices, with all that it takes to run them.

    Attributes
    ----------
    places
        The numbers of its indices in the whole sweep.
    """

    model: Any
    tokens: Tensor
    tokens_mask: Tensor | None
    sites: Sites
    metric: AnyMetric
    indices: Sequence[Sequence[Any]]
    places: Sequence[int]
    options: Options

    @classmethod
    def whole(
        cls, run: CorruptedRun, sites: Sites, metric: AnyMetric, indices: Sequence[Sequence[Any]], options: Options
    ) -> Piece:
        """A whole sweep as one piece."""
        return cls(run.model, run.tokens, run.tokens_mask, sites, metric, indices, range(len(indices)), options)

    def cut(self, n: int) -> list[Piece]:
        """At most `n` pieces, each of neighbouring layers."""
        by_layer = sorted(range(len(self.indices)), key=lambda i: self.indices[i][0])
        size = -(-len(by_layer) // n)
        return [self._of(by_layer[i : i + size]) for i in range(0, len(by_layer), size)]

    def _of(self, chosen: list[int]) -> Piece:
        indices = [self.indices[i] for i in chosen]
        names = {self.sites.name(index[0], self.model) for index in indices}
        clean = CleanActivations({name: self.sites.clean_activation(name) for name in names})
        clean.tokens, clean.mask = (getattr(self.sites.clean, known, None) for known in ("tokens", "mask"))
        sites = replace(self.sites, clean=clean)
        return replace(self, sites=sites, indices=indices, places=[self.places[i] for i in chosen])


def run_piece(piece: Piece) -> Finished:
    """What a worker does with a piece."""
    with _ONE_AT_A_TIME, torch.no_grad():
        run = CorruptedRun(piece.model, piece.tokens, piece.tokens_mask, keep=[piece.sites.activation_name])
        finished = list(here(run, piece.sites, piece.metric, piece.indices, piece.options))
    places = [piece.places[i] for some, _ in finished for i in some]
    return places, torch.cat([values for _, values in finished])


def elsewhere(executor: Executor, sweep: Piece) -> Iterator[Finished]:
    """Run a sweep's pieces on an executor; what has not begun when the caller stops is called off."""
    futures = [executor.submit(run_piece, piece) for piece in sweep.cut(_PIECES)]
    try:
        for future in as_completed(futures):
            yield future.result()
    finally:
        for future in futures:
            future.cancel()
