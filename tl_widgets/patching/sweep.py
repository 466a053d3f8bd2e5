"""A sweep is a plan: indices in, values out as they are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from tl_widgets.environment import available_memory
from tl_widgets.errors import BadInput, BadType
from tl_widgets.patching.corrupted import CorruptedRun, can_be_taken_apart
from tl_widgets.patching.descent import Descent
from tl_widgets.patching.metrics import AnyMetric, Metric
from tl_widgets.patching.patches import Patch, Sites
from tl_widgets.patching.plain import plain
from tl_widgets.patching.readout import Readout, readout_for
from tl_widgets.patching.setters import PatchSetter
from tl_widgets.patching.shortcuts import ALL, Shortcuts

Finished = tuple[list[int], Tensor]  # numbers of the indices, and their values

# What goes down together may take a part of what is free; on a processor less, as matrix products gain nothing from
# more rows, and a progress bar should move.
_PART_OF_MEMORY = 8
_BYTES_ON_CPU = 200_000_000
_BYTES_WHERE_UNKNOWN = 500_000_000


@dataclass(frozen=True)
class Options:
    """How a sweep runs; see `sweep`."""

    batch_size: int | None = None
    per_example: bool = False
    shortcuts: Shortcuts = ALL


def sweep(
    model: Any,
    corrupted: Any,
    clean: Mapping[Any, Tensor],
    metric: AnyMetric,
    setter: PatchSetter,
    activation_name: str,
    indices: Sequence[Sequence[Any]],
    batch_size: int | None = None,
    per_example: bool = False,
    shortcuts: Shortcuts = ALL,
) -> Iterator[Finished]:
    """Run the corrupted prompts once for every index, with one activation patched, and yield values as they come.

    Parameters
    ----------
    corrupted
        Tokens ``[batch, pos]``, or a `CorruptedRun` of this model.
    clean
        Where patches come from: an `ActivationCache`, or any mapping from full names to activations.
    metric
        A callable of logits ``[batch, pos, d_vocab]``, perhaps a `Metric`.
    setter, activation_name
        What is patched, see `tl_widgets.patching.setters`.
    indices
        One for each run, the layer first.
    batch_size
        The most runs that go together; None is what memory allows.
    per_example
        Values for each example rather than their mean; needs a `Metric`.

    Yields
    ------
    tuple
        Numbers of the indices that are finished, in no certain order, and their values, ``[n]`` or ``[n, batch]``.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> from tl_widgets.patching import AnswerLogit, layer_pos_patch_setter
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> _, clean = model.run_with_cache([3, 1, 4])
    >>> indices = [(0, 0), (0, 1), (0, 2)]
    >>> runs = sweep(model, [3, 5, 4], clean, AnswerLogit(7), layer_pos_patch_setter, "resid_pre", indices)
    >>> sorted(place for places, values in runs for place in places)
    [0, 1, 2]
    """
    if per_example and not isinstance(metric, Metric):
        raise BadType("Values for each example need a metric that has them, such as LogitDiff: see patching.metrics.")
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise BadInput(f"batch_size is a whole number from 1 on, or None, not {batch_size!r}.")
    sites = Sites(activation_name, setter, clean)
    for layer in dict.fromkeys(index[0] for index in indices):
        sites.name(layer, model)
    options = Options(batch_size, per_example, shortcuts)
    if not indices:
        return iter(())
    if shortcuts.resume and can_be_taken_apart(model):
        return _taken_apart(CorruptedRun.of(model, corrupted, [activation_name]), sites, metric, indices, options)
    return _plainly(model, corrupted, sites, metric, indices, options)


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
    model: Any, corrupted: Any, sites: Sites, metric: AnyMetric, indices: Sequence[Sequence[Any]], options: Options
) -> Iterator[Finished]:
    if isinstance(corrupted, CorruptedRun):
        tokens, mask = corrupted.tokens, corrupted.tokens_mask
    else:
        batch = model.read(corrupted)
        tokens, mask = batch.tokens, batch.mask
    # Whoever has hooked the model may do so to whole batches.
    together = options.batch_size or 8 if can_be_taken_apart(model) and options.shortcuts.batch else 1
    for i in range(0, len(indices), together):
        some = indices[i : i + together]
        yield (
            list(range(i, i + len(some))),
            plain(model, tokens, mask, sites, metric, some, options.per_example),
        )
