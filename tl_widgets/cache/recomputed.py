"""`RecomputedActivations`: a few activations kept, and the rest made again when they are read."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, MutableMapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tl_widgets.cache.rerun import ONE_AT_A_TIME, Rerun, Stretch, differs
from tl_widgets.errors import BadInput, StaleCache
from tl_widgets.hooks import HookPoint, Recorder, grows_with_the_square, has_batch_axis
from tl_widgets.math.slice import Slice

BUDGET = 64_000_000


@dataclass(frozen=True)
class Presentation:
    """What a reader gets of an activation; the arguments of `Recorder`."""

    device: torch.device | str | None
    remove_batch_dim: bool
    pos_slice: Slice
    private: bool

    def recorder(self) -> Recorder:
        """Return an empty recorder that presents activations so."""
        return Recorder({}, self.device, self.remove_batch_dim, self.pos_slice, self.private)


class RecomputedActivations(MutableMapping[str, Tensor]):
    """What a full cache would hold, by running one block again for what is not kept.

    Parameters
    ----------
    rerun
        The pass that is repeated in parts.
    kept
        Activations as they came out, with all examples and positions: among them the residual stream that enters each
        block.
    hooked
        What hooks made, point by point, each time that it was passed: it goes in again where a block is run again.
    names
        What iterating gives. Any other point of what was run can be read, too.
    presentation
        What a reader gets.
    """

    def __init__(
        self,
        rerun: Rerun,
        kept: dict[str, Tensor],
        hooked: dict[str, list[Tensor]],
        names: list[str],
        presentation: Presentation,
        budget: int = BUDGET,
    ) -> None:
        self.rerun = rerun
        self.hooked = hooked
        self.names = dict.fromkeys(names)
        self.presentation = presentation
        self.kept = kept
        self._given: dict[str, Tensor] = {}  # by assignment, like the items of a dict
        self._deleted: set[str] = set()
        self._recent: OrderedDict[str, Tensor] = OrderedDict()
        self._budget = 0
        self.budget = budget

    @property
    def budget(self) -> int:
        """Bytes of recomputed activations that stay, those read last."""
        return self._budget

    @budget.setter
    def budget(self, n_bytes: int) -> None:
        if isinstance(n_bytes, bool) or not isinstance(n_bytes, (int, float)) or n_bytes < 0:
            raise BadInput(f"A budget is a number of bytes, not {n_bytes!r}.")
        self._budget = int(n_bytes)
        self._forget(keep=0)

    # A mapping

    def __getitem__(self, name: str) -> Tensor:
        with ONE_AT_A_TIME:
            return self._read(name)

    def _read(self, name: str) -> Tensor:
        if name in self._given:
            return self._given[name]
        if name in self._recent:
            self._recent.move_to_end(name)
            return self._recent[name]
        source, stretch = self._kept_as(name), self.rerun.stretch_of(name)
        if name in self._deleted or (source is None and (stretch is None or name not in self.rerun.points)):
            raise KeyError(name)
        if source is not None:
            # A copy, to be edited at will: the rest is recomputed from what is kept.
            return self.presentation.recorder().presented(self.kept[source], name).clone()
        assert stretch is not None
        self._remember(self._recomputed(name, stretch, self.budget), wanted=name)
        return self._recent[name]

    def __setitem__(self, name: str, activation: Tensor) -> None:
        self.names.setdefault(name)
        self._given[name] = activation
        self._deleted.discard(name)

    def __delitem__(self, name: str) -> None:
        del self.names[name]
        self._given.pop(name, None)
        self._deleted.add(name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def in_turn(self) -> Iterator[tuple[str, Tensor]]:
        """All names and activations; each block is run once, and what it made goes when the next one is at hand."""
        at_hand: dict[str, Tensor] = {}
        where: Stretch | None = None
        for name in list(self.names):
            stretch = self.rerun.stretch_of(name)
            if stretch != where:
                at_hand, where = {}, stretch
            if name in self._given or name in at_hand or stretch is None or self._comes_alone(name):
                yield name, self[name] if name in self._given or name not in at_hand else at_hand.pop(name)
            elif self._kept_as(name) is not None:
                yield name, self[name]
            else:
                at_hand |= self._recomputed(name, stretch, None)
                yield name, at_hand.pop(name)

    @property
    def nbytes(self) -> int:
        """Bytes that are held now: what is kept, and what was recomputed lately."""
        more = [each for several in self.hooked.values() for each in several[:-1]]
        held = [*self.kept.values(), *self._recent.values(), *self._given.values(), *more]
        return sum(each.nbytes for each in held) + (0 if self.rerun.past is None else self.rerun.past.nbytes)

    @property
    def has_assigned(self) -> bool:
        """Whether somebody has put activations of his own among those of the run, or taken some away."""
        return bool(self._given or self._deleted)

    @property
    def n_examples(self) -> int:
        """Size of the batch."""
        return min(map(len, self.kept.values()), default=0)

    # Recomputing

    def _kept_as(self, name: str) -> str | None:
        """Under which name an activation is kept: what leaves a block is what enters the next, but for hooks there."""
        if name in self.kept:
            return name
        stretch = self.rerun.stretch_of(name)
        if not isinstance(stretch, int) or name != f"blocks.{stretch}.hook_resid_post":
            return None
        entering = f"blocks.{stretch + 1}.hook_resid_pre"
        return entering if entering in self.kept and entering not in self.hooked else None

    def _comes_alone(self, name: str) -> bool:
        # A pattern is formed for nobody else, and an optional point may change the shape of others.
        return grows_with_the_square(name) or name not in self.names

    def _recomputed(self, name: str, stretch: Stretch, budget: int | None) -> dict[str, Tensor]:
        """Run a stretch again, for `name` and what comes along: within the budget, or all of it."""
        entering = self.rerun.input_of(stretch)
        residual = None if entering is None else self.kept[entering]
        alone = self._comes_alone(name)
        recorder = self.presentation.recorder()
        recorder.stay_apart_from([residual])
        left = budget

        def record(activation: Tensor, hook: HookPoint) -> None:
            nonlocal left
            if hook.name == name or left is None or activation.nbytes <= left:
                recorder.activation(activation, hook)
                left = None if left is None else left - activation.nbytes
            if alone:
                raise _Enough

        along = [name] if alone else [p for p in self._points_of(stretch) if not grows_with_the_square(p)]
        hooks = [*self._replays(stretch), *((point, record) for point in along)]
        try:
            leaving = self.rerun.run(stretch, residual, self.kept.get("hook_pos_embed"), hooks)
        except _Enough:
            leaving = None
        if name not in recorder.cache:
            raise KeyError(name)  # known to the model, and never reached in it
        if leaving is not None and residual is not None:
            self._compare(leaving, residual, stretch)
        return recorder.cache

    def _points_of(self, stretch: Stretch) -> list[str]:
        return [name for name in self.names if self.rerun.stretch_of(name) == stretch]

    def _replays(self, stretch: Stretch) -> list[tuple[str, Callable[..., Any]]]:
        """Hooks that give what hooks gave in the run."""
        hooked = [name for name in self.hooked if self.rerun.stretch_of(name) == stretch]
        return [(name, _put_back(self.hooked[name])) for name in hooked]

    def _compare(self, leaving: Tensor, entered: Tensor, stretch: Stretch) -> None:
        kept = self._kept_as(f"blocks.{stretch}.hook_resid_post")
        if kept is not None and differs(leaving, self.kept[kept], entered):
            raise StaleCache(
                f"Layer {stretch} does not compute again what it did when this lazy cache was made: something in it is "
                "not the same twice (a module or a hook of torch's?). Keep everything: run_with_cache(..., lazy=False)."
            )

    def _remember(self, made: dict[str, Tensor], wanted: str) -> None:
        # Copies of slices, so that what is remembered keeps nothing larger alive: `Recorder` sees to that.
        wanted_last = [name for name in made if name != wanted] + [wanted]
        for name in wanted_last:
            self._recent[name] = made[name]
            self._recent.move_to_end(name)
        self._forget(keep=1)

    def _forget(self, keep: int) -> None:
        """Let go what was read longest ago, until the rest is within the budget; the last `keep` stay in any case."""
        held = sum(activation.nbytes for activation in self._recent.values())
        while held > self.budget and len(self._recent) > keep:
            held -= self._recent.popitem(last=False)[1].nbytes

    # The whole

    def to(self, device: torch.device | str) -> RecomputedActivations:
        """Return the same, kept on `device`; the model recomputes where it is."""

        def move(activation: Tensor) -> Tensor:
            return activation.to(device)

        return self._with(move, move, self.rerun, replace(self.presentation, device=device))

    def without_batch_dim(self) -> RecomputedActivations:
        """Return the same, read without the batch dimension (of one)."""
        presentation = replace(self.presentation, remove_batch_dim=True)
        return self._with(lambda kept: kept, lambda given: given[0], self.rerun, presentation)

    def for_examples(self, batch_slice: Slice) -> RecomputedActivations:
        """Return those of some examples; one alone is read without the batch dimension.

        What has no axis for examples (experts see tokens) is left out, as it is of a full cache.
        """
        one = batch_slice.mode == "int"
        with_dim = Slice([batch_slice.slice]) if one else batch_slice

        def pick(activation: Tensor) -> Tensor:
            return with_dim.apply(activation, dim=0).clone()  # the rest of the batch goes

        mixed = [name for name in self.hooked if not has_batch_axis(name)]
        if mixed:
            raise BadInput(f"{mixed[0]!r} had hooks and mixes the examples of a batch: they cannot be taken apart.")
        presentation = replace(self.presentation, remove_batch_dim=self.presentation.remove_batch_dim or one)
        some = self._with(pick, batch_slice.apply, self.rerun.for_examples(pick), presentation)
        some.names = {name: None for name in some.names if has_batch_axis(name)}
        return some

    def check(self) -> None:
        """Run every layer again, to see that the model computes what it did.

        Raises
        ------
        StaleCache
            If it does not.
        """
        for layer in self.rerun.layers:
            residual = self.kept[f"blocks.{layer}.hook_resid_pre"]
            leaving = self.rerun.run(layer, residual, self.kept.get("hook_pos_embed"), self._replays(layer))
            assert leaving is not None
            self._compare(leaving, residual, layer)

    def _with(
        self,
        change: Callable[[Tensor], Tensor],
        change_given: Callable[[Tensor], Tensor],
        rerun: Rerun,
        presentation: Presentation,
    ) -> RecomputedActivations:
        kept = {name: change(activation) for name, activation in self.kept.items()}
        hooked = {name: [change(each) for each in several] for name, several in self.hooked.items()}
        changed = RecomputedActivations(rerun, kept, hooked, list(self.names), presentation, self.budget)
        changed._given = {name: change_given(activation) for name, activation in self._given.items()}
        changed._deleted = set(self._deleted)
        return changed


class _Enough(Exception):
    """What is wanted has been recorded: the rest of the block need not run."""


def _put_back(activations: list[Tensor]) -> Callable[..., Tensor]:
    """A hook that gives one after the other: some points are passed several times, by queries, keys and values."""
    in_turn = iter(activations)
    return lambda computed, hook: next(in_turn).to(computed.device)
