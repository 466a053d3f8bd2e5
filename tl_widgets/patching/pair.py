"""`PatchingPair`: two prompts that part somewhere, and the question which activation carries the difference."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from tl_widgets.cache import get_act_name
from tl_widgets.errors import BadInput, unknown
from tl_widgets.patching.ablations import ABLATIONS, Made
from tl_widgets.patching.corrupted import CorruptedRun
from tl_widgets.patching.functions import shown
from tl_widgets.patching.indices import places, sizes_of
from tl_widgets.patching.metrics import AnyMetric, Metric, number
from tl_widgets.patching.places import TOGETHER, index_of, setter_of
from tl_widgets.patching.prompts import check_alike, mask_of, metric_of, run_of
from tl_widgets.patching.result import Baselines, PatchingResult
from tl_widgets.patching.setters import PatchSetter
from tl_widgets.patching.sweep import Finished, sweep
from tl_widgets.results import layers_and_heads, token_text

Direction = Literal["denoise", "noise"]
Where = tuple[str, Mapping[str, int]]


class PatchingPair:
    """A clean and a corrupted prompt (or lists of them), both run once, to be patched into each other.

    Parameters
    ----------
    model
        A `HookedTransformer`.
    clean, corrupted
        Text or tokens; of one length, token by token. Lists are a batch of pairs, whose results are means.
    answer, wrong
        Tokens (text or id, or a list with one for each pair) that the clean and the corrupted prompt are answered by.
    metric
        What is measured, in their place: see `tl_widgets.patching.metrics`, or any callable of the logits.
    prepend_bos
        For text; None is the model's default.

    Attributes
    ----------
    clean, corrupted
        The two runs: their ``tokens``, ``logits`` and ``cache`` (lazy).
    metric
        By default `LogitDiff` of answer and wrong answer at each prompt's last token, or `AnswerLogit`.
    baselines
        The metric of both runs.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer
    >>> model = HookedTransformer.from_pretrained("toy-induction")
    Loaded pretrained model toy-induction into HookedTransformer
    >>> pair = PatchingPair(
    ...     model, "red dog big house red", "blue dog big house red", answer="dog", wrong="house", progress=False
    ... )
    >>> heads = pair.patch("z", by=("layer", "head"))
    >>> heads.values.shape, heads.axes
    (torch.Size([2, 4]), ('layer', 'head'))
    """

    def __init__(
        self,
        model: Any,
        clean: Any,
        corrupted: Any,
        answer: Any = None,
        wrong: Any = None,
        *,
        metric: AnyMetric | None = None,
        prepend_bos: bool | None = None,
        progress: bool = True,
    ) -> None:
        self.model = model
        self.progress = progress
        self.clean = run_of(model, clean, prepend_bos)
        self.corrupted = run_of(model, corrupted, prepend_bos)
        check_alike(model, self.clean, self.corrupted)
        self.metric = metric_of(model, self.clean, answer, wrong) if metric is None else metric
        self.baselines = Baselines(*(_measured(self.metric, run.logits) for run in (self.clean, self.corrupted)))

    # Sweeps

    def patch(
        self,
        place: str,
        by: Sequence[str] | None = None,
        *,
        direction: Direction = "denoise",
        normalised: bool = True,
        metric: AnyMetric | None = None,
        batch_size: int | None = None,
        executor: Executor | None = None,
    ) -> PatchingResult:
        """Patch one activation after the other from one run into the other, and measure each time.

        Parameters
        ----------
        place
            ``"resid_pre"``, ``"resid_mid"``, ``"resid_post"``, ``"attn_out"``, ``"mlp_out"``, ``"z"``, ``"q"``,
            ``"k"``, ``"v"``, ``"pattern"``; or ``"head_all"`` and ``"block_all"``, several of these beside each other.
        by
            Axes: ``("layer", "pos")``, ``("layer", "head")``, ``("layer", "pos", "head")``, ``"layer"``, and of
            patterns ``("layer", "head", "dest_pos")``, ``(..., "src_pos")``; None is the place's usual.
        direction
            ``"denoise"``: from the clean run into the corrupted one (what is enough for the answer?); ``"noise"``:
            from the corrupted run into the clean one (what is needed for it?).
        normalised
            0 for the corrupted run's metric and 1 for the clean one's, in both directions.
        metric
            Another than the pair's.
        batch_size
            The most runs that go together; None is what memory allows.
        executor
            Any `concurrent.futures.Executor` runs the sweep in pieces, on other processes or machines.

        Returns
        -------
        PatchingResult
            With the axes of `by`. Interrupted, it holds what was finished, and NaN for the rest.
        """
        source = self.runs(direction)[1].cache
        return self._sweep(place, by, direction, source, "from the other run", normalised, metric, batch_size, executor)

    def ablate(
        self,
        place: str,
        by: Sequence[str] | None = None,
        *,
        value: Literal["zero", "mean"] = "zero",
        normalised: bool = True,
        metric: AnyMetric | None = None,
        batch_size: int | None = None,
        executor: Executor | None = None,
    ) -> PatchingResult:
        """Take one activation after the other out of the clean run.

        Parameters
        ----------
        value
            What is put in its place: zeros, or the clean runs' mean over prompts and positions.
        place, by, normalised, metric, batch_size, executor
            As in `patch`.
        """
        if value not in ABLATIONS:
            raise unknown("value", value, ABLATIONS)
        if value == "mean" and place in ("pattern", "head_all"):
            raise BadInput("A mean over positions makes no pattern: ablate z by mean, or patterns by value='zero'.")
        source = Made(self.clean.cache, ABLATIONS[value], self.clean.tokens_mask)
        return self._sweep(place, by, "noise", source, f"by {value}", normalised, metric, batch_size, executor)

    def measure(
        self,
        place: str,
        by: Sequence[str],
        indices: Sequence[Sequence[int]],
        *,
        direction: Direction = "denoise",
        normalised: bool = True,
    ) -> Tensor:
        """Patch some places, one at a time: ``[n]``, the mean over pairs.

        Parameters
        ----------
        indices
            In the order of the axes in `by`.
        place, by, direction, normalised
            As in `patch`.
        """
        axes, setter = setter_of(place, by)
        order = [tuple(by).index(axis) for axis in axes]
        values = self._run(
            place,
            setter,
            [tuple(index[i] for i in order) for index in indices],
            direction,
            self.runs(direction)[1].cache,
            self.metric,
        )
        return PatchingResult(values, ("place",), {}, self.baselines, place, normalised=normalised).values

    def patch_many(
        self,
        where: Sequence[Where],
        *,
        direction: Direction = "denoise",
        normalised: bool = True,
        metric: AnyMetric | None = None,
    ) -> PatchingResult:
        """Patch several places at once: their joint effect, one number.

        Parameters
        ----------
        where
            Places and their indices, such as ``[("z", {"layer": 9, "head": 1}), ("mlp_out", {"layer": 3, "pos": 4})]``;
            `PatchingResult.where` gives a sweep's strongest.
        direction, normalised, metric
            As in `patch`.
        """
        where = list(where)
        if not where:
            raise BadInput("patch_many needs at least one place, such as ('z', {'layer': 9, 'head': 1}).")
        metric = self.metric if metric is None else metric
        run, other = self.runs(direction)
        source = other.cache
        hooks = [self._hook(place, index, source) for place, index in where]
        with torch.no_grad(), self.model.hooks(hooks):
            logits = self.model(run.tokens, attention_mask=mask_of(run))
        values = _measured(metric, logits)
        text = f"{len(where)} places together, {_DIRECTIONS[direction]}"
        return PatchingResult(values, (), {}, self._baselines(metric), text, normalised=normalised)

    def _hook(
        self, place: str, index: Mapping[str, int], source: Mapping[Any, Tensor]
    ) -> tuple[str, Callable[..., Any]]:
        setter, numbers = index_of(place, index)
        self._check_index(place, index)
        name = get_act_name(place, numbers[0])
        return name, lambda activation, hook: setter(activation.clone(), numbers, source[name].to(activation.device))

    def _check_index(self, place: str, index: Mapping[str, int]) -> None:
        sizes = dict(zip(index, sizes_of(["layer", *index], self.model.cfg, self.clean.n_pos, place)[1:], strict=True))
        for axis, at in index.items():
            if not 0 <= at < sizes[axis]:
                raise BadInput(f"There is no {axis} {at} of {place!r} here: it goes from 0 to {sizes[axis] - 1}.")

    def _sweep(
        self,
        place: str,
        by: Sequence[str] | None,
        direction: Direction,
        source: Mapping[Any, Tensor],
        how: str,
        normalised: bool,
        metric: AnyMetric | None,
        batch_size: int | None,
        executor: Executor | None,
    ) -> PatchingResult:
        if direction not in _DIRECTIONS:
            raise unknown("direction", direction, _DIRECTIONS)
        metric = self.metric if metric is None else metric
        baselines = self._baselines(metric)
        if normalised:
            baselines.difference  # noqa: B018  # where there is none, better said before the sweep than after it
        if place in TOGETHER:
            parts = [
                self._values(each, by, direction, source, metric, batch_size, executor) for each in TOGETHER[place]
            ]
            n_missing = sum(_n_missing(part[0]) for part in parts)
            values, axes, labels = _stacked([part[0] for part in parts]), *parts[0][1:]
            axes, labels = ("kind", *axes), {"kind": list(TOGETHER[place])} | labels
        else:
            values, axes, labels = self._values(place, by, direction, source, metric, batch_size, executor)
            n_missing = _n_missing(values)
        text = f"{place} {how}, {_DIRECTIONS[direction]}"
        return PatchingResult(values, axes, labels, baselines, text, n_missing, normalised)

    def _values(
        self,
        place: str,
        by: Sequence[str] | None,
        direction: Direction,
        source: Mapping[Any, Tensor],
        metric: AnyMetric,
        batch_size: int | None,
        executor: Executor | None,
    ) -> tuple[Tensor, tuple[str, ...], dict[str, list[str]]]:
        """``[*places, example]``, NaN where the sweep was interrupted; and the axes with their labels."""
        axes, setter = setter_of(place, by)
        sizes = sizes_of(axes, self.model.cfg, self.clean.n_pos, place)
        values = self._run(place, setter, places(sizes), direction, source, metric, batch_size, executor)
        return values.view(*sizes, -1), axes, self.labels(axes, sizes)

    def _run(
        self,
        place: str,
        setter: PatchSetter,
        indices: Sequence[tuple[int, ...]],
        direction: Direction,
        source: Mapping[Any, Tensor],
        metric: AnyMetric,
        batch_size: int | None = None,
        executor: Executor | None = None,
    ) -> Tensor:
        """``[index, example]``, NaN where the sweep was interrupted."""
        run, per_example = self.runs(direction)[0], isinstance(metric, Metric)
        values = torch.full((len(indices), run.batch if per_example else 1), torch.nan, dtype=torch.float64)
        running = sweep(self.model, run, source, metric, setter, place, indices, batch_size, per_example, executor)
        self.collect(shown(running, len(indices), place, self.progress), values)
        return values

    def collect(self, running: Iterator[Finished], values: Tensor) -> int:
        """Fill `values` ``[index, example]`` as they come; an interrupt ends that, and loses nothing.

        Returns how many are missing.
        """
        try:
            for finished, found in running:
                values[finished] = found.view(len(finished), -1)
        except KeyboardInterrupt:
            left = _n_missing(values)
            done = f"{len(values) - left} of {len(values)} places"
            warnings.warn(f"Interrupted after {done}: the others are NaN.", stacklevel=2)
        return _n_missing(values)

    def labels(self, axes: Sequence[str], sizes: Sequence[int]) -> dict[str, list[str]]:
        """What the entries of a sweep's axes are called: positions by their tokens, where there is one pair."""
        named = layers_and_heads(self.model.cfg.n_layers, self.model.cfg.n_heads)
        tokens = self._token_labels()
        labels = {"layer": named["layer"], "head": named["head"]} | dict.fromkeys(
            ("pos", "dest_pos", "src_pos"), tokens
        )
        return {axis: labels[axis][:size] for axis, size in zip(axes, sizes, strict=True) if labels[axis]}

    def _token_labels(self) -> list[str]:
        """``["<bos>", " When", " Mary/John", ...]`` of one pair; nothing of several, which have no one text."""
        if self.clean.batch > 1 or getattr(self.model, "tokenizer", None) is None:
            return []
        rows = zip(self.clean.tokens[0].tolist(), self.corrupted.tokens[0].tolist(), strict=True)
        texts = [(token_text(self.model, a), token_text(self.model, b)) for a, b in rows]
        return [a if a == b else f"{a}/{b.strip()}" for a, b in texts]

    # The two runs

    def runs(self, direction: Direction) -> tuple[CorruptedRun, CorruptedRun]:
        """The run that is patched, and the one that patches come from."""
        if direction not in _DIRECTIONS:
            raise unknown("direction", direction, _DIRECTIONS)
        return (self.corrupted, self.clean) if direction == "denoise" else (self.clean, self.corrupted)

    def _baselines(self, metric: AnyMetric) -> Baselines:
        if metric is self.metric:
            return self.baselines
        return Baselines(_measured(metric, self.clean.logits), _measured(metric, self.corrupted.logits))

    def __repr__(self) -> str:
        n = self.clean.batch
        has_text = getattr(self.model, "tokenizer", None) is not None
        clean, corrupted = (
            self.model.to_string(run.tokens[0]) if has_text else " ".join(map(str, run.tokens[0].tolist()))
            for run in (self.clean, self.corrupted)
        )
        return "\n".join(
            [
                "PatchingPair" + (f" ({n} pairs, the first is)" if n > 1 else ""),
                f"  clean      {self.baselines.clean.mean().item():>8.3f}  {clean!r}",
                f"  corrupted  {self.baselines.corrupted.mean().item():>8.3f}  {corrupted!r}",
            ]
        )


_DIRECTIONS = {"denoise": "into the corrupted run", "noise": "into the clean run"}


def _measured(metric: AnyMetric, logits: Tensor) -> Tensor:
    """``[example]``; a metric that knows no examples has one number for all."""
    with torch.no_grad():
        if isinstance(metric, Metric):
            return metric.per_example(logits).double().cpu()
        return torch.tensor([number(metric(logits.clone()))], dtype=torch.float64)


def _stacked(values: list[Tensor]) -> Tensor:
    """Values ``[*places, example]`` of several sweeps; keys and values may have fewer heads, and NaN behind them."""
    widest = max(each.shape[-2] for each in values)
    return torch.stack([F.pad(each, (0, 0, 0, widest - each.shape[-2]), value=torch.nan) for each in values])


def _n_missing(values: Tensor) -> int:
    """How many places of ``[*places, example]`` an interrupt has left open."""
    return int(values[..., 0].isnan().sum())
