"""The field's patching functions: rows of a table (activation, axes, setter), run by one engine."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tl_widgets.errors import BadInput
from tl_widgets.patching import setters
from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.indices import frame, places, rows_of, sizes_of
from tl_widgets.patching.metrics import AnyMetric
from tl_widgets.patching.setters import PatchSetter
from tl_widgets.patching.sweep import Finished, sweep


def generic_activation_patch(
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Mapping[Any, Tensor],
    patching_metric: AnyMetric,
    patch_setter: PatchSetter,
    activation_name: str,
    index_axis_names: Sequence[str] | None = None,
    index_df: Any = None,
    return_index_df: bool = False,
    *,
    batch_size: int | None = None,
    progress: bool = True,
    executor: Executor | None = None,
    **options: Any,
) -> Any:
    """For every index, run the corrupted tokens with one activation patched and record a metric of the logits.

    Parameters
    ----------
    model
        A `HookedTransformer`; hooks that it has stay in force.
    corrupted_tokens
        ``[batch, pos]``, or a `CorruptedRun` of them, which serves several calls.
    clean_cache
        The clean run's `ActivationCache`, of prompts with as many tokens.
    patching_metric
        A callable of logits ``[batch, pos, d_vocab]`` that returns one number. One that says what it reads
        (`LogitDiff`, ...) takes a fraction of the time.
    patch_setter
        ``setter(corrupted_activation, index, clean_activation)``: returns the patched activation, or edits in place.
    activation_name
        The field's shorthand: ``"resid_pre"``, ``"z"``, ``"pattern"``, ...
    index_axis_names
        Axes to sweep over, the layer first: ``"layer"``, ``"pos"``, ``"head"``, ``"head_index"``, ``"src_pos"``,
        ``"dest_pos"``.
    index_df
        In place of axes: a DataFrame with an index in each row, the first column ``"layer"``.
    return_index_df
        Also return the DataFrame of indices.
    batch_size
        The most runs that go together; None is what memory allows.
    progress
        Whether to show a progress bar.
    executor
        Any `concurrent.futures.Executor` runs the sweep in pieces, see `tl_widgets.patching.pieces`.

    Returns
    -------
    Tensor
        One axis for each name, or ``[n_indices]`` with an `index_df`; with `return_index_df` a tuple with the
        DataFrame.

    Examples
    --------
    Patch the sum of two neighbouring positions, with a setter of one's own:

    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer(dict(n_layers=2, d_model=16, n_ctx=32, d_head=4, act_fn="gelu", d_vocab=50, seed=0))
    >>> _, clean_cache = model.run_with_cache([3, 1, 4])
    >>> def from_here_on(corrupted, index, clean):
    ...     corrupted[:, index[1]:] = clean[:, index[1]:]
    ...     return corrupted
    >>> values = generic_activation_patch(
    ...     model, [3, 5, 4], clean_cache, lambda logits: logits[0, -1, 7], from_here_on, "resid_pre", ["layer", "pos"],
    ...     progress=False,
    ... )
    >>> values.shape
    torch.Size([2, 3])
    """
    if (index_axis_names is None) == (index_df is None):
        raise BadInput("Give index_axis_names, or an index_df in their place.")
    run = CorruptedRun.of(model, corrupted_tokens, [activation_name])
    indices: Sequence[Sequence[Any]]
    if index_df is not None:
        indices = rows_of(index_df)
        sizes: tuple[int, ...] = (len(indices),)
    else:
        sizes = sizes_of(index_axis_names or (), model.cfg, run.n_pos, activation_name)
        indices = places(sizes)
        if return_index_df:
            index_df = frame(indices, index_axis_names or ())
    running = sweep(
        model,
        run,
        clean_cache,
        patching_metric,
        patch_setter,
        activation_name,
        indices,
        batch_size=batch_size,
        executor=executor,
        **options,
    )
    values = torch.zeros(len(indices), dtype=torch.float64)
    for finished, their_values in shown(running, len(indices), activation_name, progress):
        values[finished] = their_values
    values = values.to(device=model.cfg.device, dtype=torch.promote_types(model.cfg.dtype, torch.float32)).reshape(
        sizes
    )
    return (values, index_df) if return_index_df else values


def shown(running: Iterator[Finished], total: int, what: str, progress: bool) -> Iterator[Finished]:
    """The same, with a progress bar."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped]

    with tqdm(total=total, desc=f"Patching {what}", unit="run", leave=False, disable=not progress) as bar:
        for finished in running:
            yield finished
            bar.update(len(finished[0]))


def _row(activation_name: str, axes: str, patch_setter: PatchSetter) -> partial:
    """A named sweep: `generic_activation_patch` with what it patches filled in."""
    row = partial(
        generic_activation_patch,
        patch_setter=patch_setter,
        activation_name=activation_name,
        index_axis_names=tuple(axes.split()),
    )
    row.__doc__ = f"Patch {activation_name} by {axes.replace(' ', ', ')}; see `generic_activation_patch`."
    return row


get_act_patch_resid_pre = _row("resid_pre", "layer pos", setters.layer_pos_patch_setter)
get_act_patch_resid_mid = _row("resid_mid", "layer pos", setters.layer_pos_patch_setter)
get_act_patch_attn_out = _row("attn_out", "layer pos", setters.layer_pos_patch_setter)
get_act_patch_mlp_out = _row("mlp_out", "layer pos", setters.layer_pos_patch_setter)

_BY_POS, _BY_HEAD = setters.layer_pos_head_vector_patch_setter, setters.layer_head_vector_patch_setter
get_act_patch_attn_head_out_by_pos = _row("z", "layer pos head", _BY_POS)
get_act_patch_attn_head_q_by_pos = _row("q", "layer pos head", _BY_POS)
get_act_patch_attn_head_k_by_pos = _row("k", "layer pos head", _BY_POS)
get_act_patch_attn_head_v_by_pos = _row("v", "layer pos head", _BY_POS)
get_act_patch_attn_head_out_all_pos = _row("z", "layer head", _BY_HEAD)
get_act_patch_attn_head_q_all_pos = _row("q", "layer head", _BY_HEAD)
get_act_patch_attn_head_k_all_pos = _row("k", "layer head", _BY_HEAD)
get_act_patch_attn_head_v_all_pos = _row("v", "layer head", _BY_HEAD)

get_act_patch_attn_head_pattern_all_pos = _row("pattern", "layer head_index", setters.layer_head_pattern_patch_setter)
get_act_patch_attn_head_pattern_by_pos = _row(
    "pattern", "layer head_index dest_pos", setters.layer_head_pos_pattern_patch_setter
)
get_act_patch_attn_head_pattern_dest_src_pos = _row(
    "pattern", "layer head_index dest_pos src_pos", setters.layer_head_dest_src_pos_pattern_patch_setter
)


def get_act_patch_attn_head_all_pos_every(
    model: Any, corrupted_tokens: Any, clean_cache: Mapping[Any, Tensor], metric: AnyMetric, **options: Any
) -> Tensor:
    """Patch each head's output, query, key, value and pattern, at all positions: ``[5, layer, head]``.

    Under grouped-query attention keys and values have fewer heads: what is behind them is zero.
    """
    return _every(
        [
            get_act_patch_attn_head_out_all_pos,
            get_act_patch_attn_head_q_all_pos,
            get_act_patch_attn_head_k_all_pos,
            get_act_patch_attn_head_v_all_pos,
            get_act_patch_attn_head_pattern_all_pos,
        ],
        ["z", "pattern"],
        model,
        corrupted_tokens,
        clean_cache,
        metric,
        options,
    )


def get_act_patch_attn_head_by_pos_every(
    model: Any, corrupted_tokens: Any, clean_cache: Mapping[Any, Tensor], metric: AnyMetric, **options: Any
) -> Tensor:
    """Patch each head's output, query, key, value and pattern row, at each position: ``[5, layer, pos, head]``.

    Under grouped-query attention keys and values have fewer heads: what is behind them is zero.
    """
    return _every(
        [
            get_act_patch_attn_head_out_by_pos,
            get_act_patch_attn_head_q_by_pos,
            get_act_patch_attn_head_k_by_pos,
            get_act_patch_attn_head_v_by_pos,
            lambda *given, **options: get_act_patch_attn_head_pattern_by_pos(*given, **options).transpose(1, 2),
        ],
        ["z", "pattern"],
        model,
        corrupted_tokens,
        clean_cache,
        metric,
        options,
    )


def get_act_patch_block_every(
    model: Any, corrupted_tokens: Any, clean_cache: Mapping[Any, Tensor], metric: AnyMetric, **options: Any
) -> Tensor:
    """Patch what enters each layer, what attention adds, what the MLP adds, at each position: ``[3, layer, pos]``."""
    sweeps = [get_act_patch_resid_pre, get_act_patch_attn_out, get_act_patch_mlp_out]
    return _every(sweeps, ["attn_out", "mlp_out"], model, corrupted_tokens, clean_cache, metric, options)


def _every(
    sweeps: Sequence[Callable[..., Tensor]],
    keep: Sequence[str],
    model: Any,
    corrupted_tokens: Any,
    clean_cache: Mapping[Any, Tensor],
    metric: AnyMetric,
    options: dict[str, Any],
) -> Tensor:
    """The results of several sweeps on one corrupted run, stacked; missing heads are zero."""
    run = CorruptedRun.of(model, corrupted_tokens, keep)
    results = [one(model, run, clean_cache, metric, **options) for one in sweeps]
    widest = max(result.shape[-1] for result in results)
    return torch.stack([F.pad(result, (0, widest - result.shape[-1])) for result in results])
