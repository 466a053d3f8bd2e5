"""The engine's loop: find what each index changes, gather what goes down together, read it out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from tl_widgets.environment import available_memory
from tl_widgets.patching.corrupted import CorruptedRun, can_be_taken_apart
from tl_widgets.patching.descent import Descent
from tl_widgets.patching.metrics import AnyMetric
from tl_widgets.patching.options import Options
from tl_widgets.patching.patches import Patch, Sites
from tl_widgets.patching.plain import plain
from tl_widgets.patching.readout import Readout, readout_for

Finished = tuple[list[int], Tensor]  # numbers of the indices, and their values

# What goes down together may take a part of what is free; on a processor less, as matrix products gain nothing from
# more rows, and a progress bar should move.
_PART_OF_MEMORY = 8
_BYTES_ON_CPU = 100_000_000
_BYTES_WHERE_UNKNOWN = 500_000_000
_PLAIN_BATCH = 8


def here(
    run: CorruptedRun, sites: Sites, metric: AnyMetric, indices: Sequence[Sequence[Any]], options: Options
) -> Iterator[Finished]:
    """`sweep` in this process, of what has been checked."""
    if options.shortcuts.resume and can_be_taken_apart(run.model):
        return _taken_apart(run, sites, metric, indices, options)
    return _plainly(run, sites, metric, indices, options)


def _taken_apart(
    run: CorruptedRun, sites: Sites, metric: AnyMetric, indices: Sequence[Sequence[Any]], options: Options
) -> Iterator[Finished]:
    readout = readout_for(run, metric, options.per_example, options.shortcuts.read)
    descent = Descent(run, sites, readout.reads, options.shortcuts)
    most_bytes = _most_bytes(run.tokens.device)
    most_runs = options.batch_size if options.shortcuts.batch else 1
    unchanged: list[int] = []
    waiting: list[Patch] = []
    held = 0
    # Layer by layer, so that those which go together start late.
    for place in sorted(range(len(indices)), key=lambda place: indices[place][0]):
        patch = descent.patch(place, indices[place])
        if patch is None:
            unchanged.append(place)
            continue
        more = descent.memory(patch)
        if waiting and (held + more > most_bytes or len(waiting) == most_runs):
            yield _finished(descent, readout, waiting)
            waiting, held = [], 0
        waiting.append(patch)
        held += more
    if waiting:
        yield _finished(descent, readout, waiting)
    if unchanged:
        yield unchanged, readout.baseline.expand(len(unchanged), *readout.baseline.shape).clone()


def _finished(descent: Descent, readout: Readout, patches: list[Patch]) -> Finished:
    places: list[int] = []
    values: list[Tensor] = []
    with torch.no_grad():
        for read, their_values in readout(descent(patches)):
            places += [patch.place for patch in read]
            values.append(their_values.cpu())
    return places, torch.cat(values)


def _most_bytes(device: torch.device) -> int:
    free = available_memory(device)
    by_memory = _BYTES_WHERE_UNKNOWN if free is None else free // _PART_OF_MEMORY
    return min(by_memory, _BYTES_ON_CPU) if device.type == "cpu" else by_memory


def _plainly(
    run: CorruptedRun, sites: Sites, metric: AnyMetric, indices: Sequence[Sequence[Any]], options: Options
) -> Iterator[Finished]:
    # Whoever has hooked the model may do so to whole batches.
    may_batch = can_be_taken_apart(run.model) and options.shortcuts.batch
    together = (options.batch_size or _PLAIN_BATCH) if may_batch else 1
    for i in range(0, len(indices), together):
        some = indices[i : i + together]
        yield list(range(i, i + len(some))), plain(run, sites, metric, some, options.per_example)
