"""A sweep is a plan: indices in, values out as they are finished."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any

from torch import Tensor

from tl_widgets.errors import BadInput, BadType
from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.engine import Finished, here
from tl_widgets.patching.metrics import AnyMetric, Metric
from tl_widgets.patching.options import ALL, Options, Shortcuts
from tl_widgets.patching.patches import Sites
from tl_widgets.patching.pieces import Piece, elsewhere
from tl_widgets.patching.setters import PatchSetter


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
    executor: Executor | None = None,
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
    executor
        Any `concurrent.futures.Executor` runs the sweep in pieces, see `tl_widgets.patching.pieces`.

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
    indices = [list(index) for index in indices]
    sites = Sites(activation_name, setter, clean)
    for layer in dict.fromkeys(index[0] for index in indices):
        sites.name(layer, model)
    options = Options(batch_size, per_example, shortcuts)
    if not indices:
        return iter(())
    run = CorruptedRun.of(model, corrupted, [activation_name])
    if executor is not None:
        return elsewhere(executor, Piece.whole(run, sites, metric, indices, options))
    return here(run, sites, metric, indices, options)
