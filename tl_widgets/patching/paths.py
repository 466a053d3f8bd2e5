"""Path patching: what a component does to another along a path, all else held as it was.

Wang et al. (2022), "Interpretability in the Wild", https://arxiv.org/abs/2211.00593, and Goldowsky-Dill et al. (2023),
https://arxiv.org/abs/2304.05969.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tl_widgets.cache import get_act_name
from tl_widgets.errors import BadInput, unknown
from tl_widgets.patching.corrupted import CorruptedRun, repeated
from tl_widgets.patching.functions import shown
from tl_widgets.patching.indices import places, sizes_of
from tl_widgets.patching.metrics import AnyMetric, Metric, number
from tl_widgets.patching.places import setter_of
from tl_widgets.patching.result import PatchingResult
from tl_widgets.patching.setters import PatchSetter

if TYPE_CHECKING:
    from tl_widgets.hooks import NamedHook
    from tl_widgets.patching.pair import Direction, PatchingPair

# Receivers and what tells them: recorded where the senders' effect arrives, and put in again.
_RECEIVERS = {"q": ("layer", "head"), "k": ("layer", "head"), "v": ("layer", "head"), "mlp_in": ("layer",)}
_SENDERS = ("z", "attn_out", "mlp_out")
_AT_A_TIME = 8

Receiver = tuple[str, Mapping[str, int]]


def path_patch(
    pair: PatchingPair,
    sender: str,
    receivers: Receiver | Sequence[Receiver] | str = "logits",
    by: Sequence[str] | None = None,
    *,
    through: Sequence[tuple[str, Mapping[str, int]]] = (),
    direction: Direction = "denoise",
    normalised: bool = True,
    batch_size: int | None = None,
) -> PatchingResult:
    """Patch one component after the other, and let only chosen receivers see it.

    First the sender is patched while every other attention head and MLP is held at what it wrote in that run, so that
    the change arrives by the residual stream alone; then the run is repeated with the receivers' part of it put in.

    Parameters
    ----------
    sender
        What is patched, in turn: ``"z"`` (heads), ``"attn_out"`` or ``"mlp_out"``.
    receivers
        ``"logits"``; or a head's ``("q", {"layer": 9, "head": 1})``, ``"k"`` or ``"v"``; or an MLP,
        ``("mlp_in", {"layer": 9})``; or several of them.
    by
        The axes to sweep the sender by, as in `PatchingPair.patch`.
    through
        Components that are not held, so that paths through them count: ``("z", {"layer": 8, "head": 6})``,
        ``("mlp_out", {"layer": 8})``.
    direction, normalised
        As in `PatchingPair.patch`.
    batch_size
        How many senders go together.

    Returns
    -------
    PatchingResult
        With the sender's axes.

    Examples
    --------
    >>> from tl_widgets import HookedTransformer, patching
    >>> model = HookedTransformer.from_pretrained("toy-induction")
    Loaded pretrained model toy-induction into HookedTransformer
    >>> pair = patching.PatchingPair(
    ...     model, "red dog big house red", "blue dog big house red", answer="dog", wrong="house", progress=False
    ... )
    >>> patching.path_patch(pair, "z", ("k", {"layer": 1, "head": 0})).axes
    ('layer', 'head')
    """
    if sender not in _SENDERS:
        raise unknown("sender", sender, _SENDERS)
    if batch_size is not None and (isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1):
        raise BadInput(f"batch_size is a whole number from 1 on, or None, not {batch_size!r}.")
    axes, setter = setter_of(sender, by)
    model, (run, source) = pair.model, pair.runs(direction)
    sizes = sizes_of(axes, model.cfg, run.n_pos, sender)
    indices = places(sizes)
    paths = _Paths(run, source, sender, setter, _checked(model, receivers), _free(model, through))
    per_example = isinstance(pair.metric, Metric)
    values = torch.full((len(indices), run.batch if per_example else 1), torch.nan, dtype=torch.float64)
    at_a_time = batch_size or _AT_A_TIME

    def pieces() -> Any:
        for i in range(0, len(indices), at_a_time):
            chosen = range(i, min(i + at_a_time, len(indices)))
            yield list(chosen), paths([indices[j] for j in chosen], pair.metric)

    n_missing = pair.collect(shown(pieces(), len(indices), f"paths from {sender}", pair.progress), values)
    what = receivers if isinstance(receivers, str) else ", ".join(f"{name} {dict(at)}" for name, at in paths.receivers)
    return PatchingResult(
        values.view(*sizes, -1),
        axes,
        pair.labels(axes, sizes),
        pair.baselines,
        f"{sender} to {what}",
        n_missing,
        normalised,
    )


class _Paths:
    """Senders' effect on receivers, for some senders at a time."""

    def __init__(
        self,
        run: CorruptedRun,
        source: CorruptedRun,
        sender: str,
        setter: PatchSetter,
        receivers: list[Receiver],
        free: dict[str, list[int]],
    ) -> None:
        self.run, self.source, self.model = run, source, run.model
        self.sender, self.setter = sender, setter
        self.receivers = receivers
        self.free = free
        cfg = self.model.cfg
        kinds = ["z"] if cfg.attn_only else ["z", "mlp_out"]
        self.held = [get_act_name(kind, layer) for layer in range(cfg.n_layers) for kind in kinds]

    def __call__(self, indices: Sequence[tuple[int, ...]], metric: AnyMetric) -> Tensor:
        """Values ``[index, example]``."""
        n = len(indices)
        arrived: dict[str, Tensor] = {}

        def record(activation: Tensor, hook: Any) -> None:
            arrived[hook.name] = activation.clone()

        hooks: list[NamedHook] = [(name, self._hold(name, n)) for name in self.held]
        hooks += self._sending(indices)
        names = dict.fromkeys(get_act_name(name, at["layer"]) for name, at in self.receivers)
        hooks += [(name, record) for name in names]
        with torch.no_grad():
            logits = self._pass(n, hooks)
            if self.receivers:
                logits = self._pass(n, [self._put_in(receiver, arrived) for receiver in self.receivers])
        logits = logits.unflatten(0, (n, self.run.batch))
        if isinstance(metric, Metric):
            return torch.stack([metric.per_example(each).double().cpu() for each in logits])
        return torch.tensor([[number(metric(each))] for each in logits], dtype=torch.float64)

    def _pass(self, n: int, hooks: Sequence[NamedHook]) -> Tensor:
        tokens = self.run.tokens
        real = torch.ones_like(tokens) if self.run.tokens_mask is None else self.run.tokens_mask
        with self.model.hooks(hooks):
            return self.model(tokens.repeat(n, 1), attention_mask=real.repeat(n, 1))

    def _hold(self, name: str, n: int) -> Callable[..., Tensor]:
        def hook(activation: Tensor, hook: Any) -> Tensor:
            held = repeated(self.run.cache[name].to(activation.device), n)
            if name not in self.free:
                return held
            if not name.endswith("hook_z"):
                return activation
            held = held.clone()
            held[:, :, self.free[name]] = activation[:, :, self.free[name]]
            return held

        return hook

    def _sending(self, indices: Sequence[tuple[int, ...]]) -> list[NamedHook]:
        """Hooks that put each sender's patch into its own part of the batch."""
        batch = self.run.batch
        by_layer: dict[int, list[int]] = {}
        for i, index in enumerate(indices):
            by_layer.setdefault(index[0], []).append(i)

        def sending(layer: int, numbers: list[int]) -> NamedHook:
            name = get_act_name(self.sender, layer)

            def hook(activation: Tensor, hook: Any) -> Tensor:
                patched = activation.clone()
                theirs = self.source.cache[name].to(patched.device)
                for i in numbers:
                    mine = patched[i * batch : (i + 1) * batch]
                    # What is sent starts from what is held, also where paths lead through this very component.
                    mine.copy_(self.setter(self.run.cache[name].to(patched.device).clone(), indices[i], theirs))
                return patched

            return name, hook

        return [sending(layer, numbers) for layer, numbers in by_layer.items()]

    def _put_in(self, receiver: Receiver, arrived: Mapping[str, Tensor]) -> NamedHook:
        kind, at = receiver
        name = get_act_name(kind, at["layer"])

        def hook(activation: Tensor, hook: Any) -> Tensor:
            if kind == "mlp_in":
                return arrived[name]
            patched = activation.clone()
            patched[:, :, at["head"]] = arrived[name][:, :, at["head"]]
            return patched

        return name, hook


def _checked(model: Any, receivers: Receiver | Sequence[Receiver] | str) -> list[Receiver]:
    """Receivers as a list; of the logits, an empty one."""
    if receivers == "logits":
        return []
    one = isinstance(receivers, tuple) and len(receivers) == 2 and isinstance(receivers[0], str)
    several: list[Any] = [receivers] if one or isinstance(receivers, str) else list(receivers)
    cfg = model.cfg
    for receiver in several:
        if not (isinstance(receiver, tuple) and len(receiver) == 2 and isinstance(receiver[1], Mapping)):
            raise BadInput(f"A receiver is 'logits' or reads ('q', {{'layer': 9, 'head': 1}}), not {receiver!r}.")
        kind, at = receiver
        if kind not in _RECEIVERS:
            raise unknown("receiver", kind, ["logits", *_RECEIVERS])
        if set(at) != set(_RECEIVERS[kind]):
            raise BadInput(f"The receiver {kind!r} is told by {_RECEIVERS[kind]}, not by {tuple(at)}.")
        if kind == "mlp_in" and cfg.attn_only:
            raise BadInput("This model is attention-only: it has no MLP to receive anything.")
        n_heads = cfg.n_heads if kind == "q" else cfg.n_kv_hooked
        for axis, size in (("layer", cfg.n_layers), ("head", n_heads)):
            if axis in at and not 0 <= at[axis] < size:
                raise BadInput(f"There is no {axis} {at[axis]} of {kind!r} here: it goes from 0 to {size - 1}.")
    return several


def _free(model: Any, through: Sequence[tuple[str, Mapping[str, int]]]) -> dict[str, list[int]]:
    """Names of activations that are not held, and of `z` which heads."""
    free: dict[str, list[int]] = {}
    for kind, at in through:
        if kind not in ("z", "mlp_out"):
            raise unknown("component to go through", kind, ("z", "mlp_out"))
        if set(at) != ({"layer", "head"} if kind == "z" else {"layer"}):
            raise BadInput(
                f"A path goes through ('z', {{'layer': 8, 'head': 6}}) or ('mlp_out', {{'layer': 8}}), not {at}."
            )
        name = get_act_name(kind, at["layer"])
        if name not in model.hook_dict:
            raise unknown("activation", name, model.hook_dict)
        free.setdefault(name, []).extend([at["head"]] if kind == "z" else [])
    return free
