"""`Descent`: many patches through the remaining layers as one batch, which those of later layers join on its way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tl_widgets.patching.corrupted import CorruptedRun, repeated
from tl_widgets.patching.layer import Layer, Strip
from tl_widgets.patching.options import Shortcuts
from tl_widgets.patching.patches import Activation, Patch, Sites

_Door = Callable[[Layer, list[Strip]], list[Strip]]

# Where in a block a patched activation comes in, and what is left of the block to compute from there.
DOORS: dict[str, _Door] = {
    "attn.hook_q": lambda layer, strips: layer.z([layer.queries(strip) for strip in strips]),
    "attn.hook_k": lambda layer, strips: layer.z([layer.keys(strip) for strip in strips]),
    "attn.hook_v": lambda layer, strips: layer.z([layer.values(strip) for strip in strips]),
    "attn.hook_pattern": lambda layer, strips: layer.z([layer.pattern(strip) for strip in strips]),
    "attn.hook_z": lambda layer, strips: layer.z(strips),
    "hook_attn_out": lambda layer, strips: layer.attn_out(strips),
    "hook_resid_mid": lambda layer, strips: layer.resid_mid(strips),
    "hook_mlp_out": lambda layer, strips: [layer.mlp_out(strip) for strip in strips],
    "hook_resid_post": lambda layer, strips: strips,
}
_ENTRANCE = "hook_resid_pre"
# These reach other positions within their own layer; the others change nothing there but what they are put into.
_REACH_OTHERS = (_ENTRANCE, "attn.hook_k", "attn.hook_v")


class Descent:
    """Runs patches of one kind of activation, from where they act to the residual stream behind the last layer.

    Parameters
    ----------
    reads
        The positions that anybody looks at there.
    """

    def __init__(self, run: CorruptedRun, sites: Sites, reads: range, shortcuts: Shortcuts) -> None:
        self.run = run
        self.sites = sites
        self.reads = reads
        self.shortcuts = shortcuts
        self.by_position = run.is_causal and shortcuts.by_position
        self.end = reads.stop if self.by_position else run.n_pos
        self._parted = run.parted_from(sites.clean)
        self._layers: dict[int, Layer] = {}
        self._activations: dict[int, Activation] = {}

    # Finding

    def patch(self, place: int, index: Sequence[Any]) -> Patch | None:
        """The patch for one index; None where nothing that is read can change."""
        layer = index[0]
        keep_all = not self.shortcuts.skip
        found = self._activation(layer).patch(place, layer, index, self.sites.setter, keep_all)
        if found is None or not self.by_position:
            return found
        seen_from = self.reads.start if self._is_last(layer) and self._is_local(layer) else 0
        return None if found.start >= self.end or found.stop <= seen_from else found

    def memory(self, patch: Patch) -> int:
        """Bytes that a patch takes on its way down."""
        cfg, batch, n_pos = self.run.model.cfg, self.run.batch, self.run.n_pos
        start, stop = self._span(patch)
        stop = stop if self._is_last(patch.layer) else self.end
        rows = stop - start if self._is_prepared(patch.layer) else n_pos
        hidden = 4 * (cfg.d_mlp or 0) + 12 * cfg.d_model  # an MLP's inside before and after, and the stream's copies
        seen = n_pos * cfg.n_heads * (2 * cfg.d_head + rows)  # keys, values and scores
        return batch * (rows * hidden + seen) * cfg.dtype.itemsize

    def _activation(self, layer: int) -> Activation:
        if layer not in self._activations:
            name = self.sites.name(layer, self.run.model)
            clean = self.sites.clean_activation(name)
            self._activations[layer] = Activation(name, self.run.cache[name], clean, self._parted)
        return self._activations[layer]

    def _point(self, layer: int) -> str:
        """Where in its block an activation is."""
        return self.sites.name(layer, self.run.model).split(".", 2)[-1]

    def _is_prepared(self, layer: int) -> bool:
        return self._point(layer) in DOORS or self._point(layer) == _ENTRANCE

    def _is_local(self, layer: int) -> bool:
        return self._point(layer) in DOORS and self._point(layer) not in _REACH_OTHERS

    def _is_last(self, layer: int) -> bool:
        return layer == self.run.model.cfg.n_layers - 1

    def _span(self, patch: Patch) -> tuple[int, int]:
        """The positions that come in with it."""
        if not self.by_position:
            return 0, self.run.n_pos
        start, stop = patch.start, min(patch.stop, self.end)
        if self._is_last(patch.layer) and self._is_local(patch.layer):
            start = max(start, self.reads.start)
        return start, stop

    # Running

    def __call__(self, patches: Sequence[Patch]) -> list[Strip]:
        """Strips of the final residual stream, cut to what is read; outside of them nothing changes."""
        n_layers = self.run.model.cfg.n_layers
        by_layer: dict[int, list[Patch]] = {}
        for patch in patches:
            by_layer.setdefault(patch.layer, []).append(patch)
        strips: list[Strip] = []
        with torch.no_grad():
            for number in range(min(by_layer), n_layers):
                layer = self._layer(number)
                joining = by_layer.get(number, [])
                if joining and self._point(number) == _ENTRANCE:
                    strips = _merged([*strips, *(self._filled(strip, number) for strip in self._cut(joining))])
                    joining = []
                first_query = self.reads.start if self._is_last(number) else 0
                if strips:
                    strips = layer.through(strips, first_query)
                if joining:
                    joined = self._through_door(layer, joining)
                    if not self._is_last(number):
                        joined = [self._filled(strip, number + 1) for strip in joined]
                    strips = _merged([*strips, *joined])
        self._forget_before(max(by_layer))
        return [strip.narrowed(self.reads.start, self.reads.stop) for strip in strips]

    def _forget_before(self, layer: int) -> None:
        """Patches come layer by layer: no more of them will be put in before this one."""
        for known in (self._layers, self._activations):
            for passed in [number for number in known if number < layer]:
                del known[passed]

    def _layer(self, number: int) -> Layer:
        if number not in self._layers:
            self._layers[number] = Layer(self.run, number, self.end)
        return self._layers[number]

    def _cut(self, patches: Sequence[Patch]) -> list[Strip]:
        """The patched activation, a strip for all patches that change the same positions."""
        by_span: dict[tuple[int, int], list[Patch]] = {}
        for patch in patches:
            by_span.setdefault(self._span(patch), []).append(patch)
        return [
            Strip(together, *span, self._activation(together[0].layer).patched(together, *span))
            for span, together in by_span.items()
        ]

    def _through_door(self, layer: Layer, patches: list[Patch]) -> list[Strip]:
        door = DOORS.get(self._point(layer.number))
        if door is not None:
            return door(layer, self._cut(patches))
        patched = self._activation(layer.number).patched(patches, 0, self.run.n_pos)
        whole = layer.whole(self.sites.name(layer.number, self.run.model), patches, patched)
        start = min(patch.start for patch in patches) if self.by_position else 0
        return [whole.narrowed(start, self.end)]

    def _filled(self, strip: Strip, entering: int) -> Strip:
        """The strip with the corrupted run's residual stream behind it, up to the end."""
        behind = repeated(self.run.entering(entering)[:, strip.stop : self.end], len(strip.patches))
        x = torch.cat([strip.x, behind], dim=1) if behind.shape[1] else strip.x
        return Strip(strip.patches, strip.start, self.end, x)


def _merged(strips: Sequence[Strip]) -> list[Strip]:
    """One strip for all runs of the same positions: attention goes strip by strip."""
    by_span: dict[tuple[int, int], list[Strip]] = {}
    for strip in strips:
        by_span.setdefault((strip.start, strip.stop), []).append(strip)
    return [same[0] if len(same) == 1 else _joined(same) for same in by_span.values()]


def _joined(strips: list[Strip]) -> Strip:
    patches = [patch for strip in strips for patch in strip.patches]
    return Strip(patches, strips[0].start, strips[0].stop, torch.cat([strip.x for strip in strips]))
