"""One layer of the corrupted run, taken apart: ways in for patches, and the way through for what is patched already.

Patched runs are handled in strips: some positions of many runs, those before being the corrupted run's own. What looks
at each position alone (norms, maps into and out of heads, MLPs) sees the rows of all strips as one batch; only
attention goes strip by strip, with the corrupted run's keys and values for what is not in the strip.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from tl_widgets.network.attention import AbstractAttention
from tl_widgets.patching.corrupted import CorruptedRun, repeated
from tl_widgets.patching.patches import Patch


@dataclass(frozen=True)
class Strip:
    """Positions `start` to `stop` of one run for each patch.

    Attributes
    ----------
    x
        ``[n_patches * batch, stop - start, ...]``: the residual stream, or another activation on the way to it.
    """

    patches: list[Patch]
    start: int
    stop: int
    x: Tensor

    def narrowed(self, start: int, stop: int) -> Strip:
        """The positions of it that lie between these."""
        start, stop = max(start, self.start), min(stop, self.stop)
        return replace(self, start=start, stop=stop, x=self.x[:, start - self.start : stop - self.start])

    def of_patches(self, first: int, stop: int, batch: int) -> Strip:
        """The runs of some of the patches."""
        return replace(self, patches=self.patches[first:stop], x=self.x[first * batch : stop * batch])


class Layer:
    """Layer `number` of a corrupted run.

    Parameters
    ----------
    end
        Nothing from this position on is of interest.
    """

    def __init__(self, run: CorruptedRun, number: int, end: int) -> None:
        self.run = run
        self.number = number
        self.end = end
        self.block: Any = run.model.blocks[number]
        self.attn: AbstractAttention = self.block.attn
        self.resid_pre = run.entering(number)

    # What the corrupted run has here

    @cached_property
    def _placed(self) -> tuple[Tensor, Tensor, Tensor]:
        """Its queries, keys and values as attention takes them, ``[batch, pos, head, d_head]``."""
        q, k, v = (self.run.cache[name, self.number] for name in "qkv")
        positions = self.run.mask(0, self.run.n_pos).positions
        return self.attn.place(q, k, v, positions, positions)

    def _with_strip(self, of_run: Tensor, strip: Strip, x: Tensor, stop: int) -> Tensor:
        """The run's keys or values up to `stop`, with those of a strip in their place."""
        n = len(strip.patches)
        parts = [repeated(of_run[:, : strip.start], n), x, repeated(of_run[:, strip.stop : stop], n)]
        return torch.cat([part for part in parts if part.shape[1]], dim=1)

    def _positions(self, strip: Strip) -> Tensor:
        positions = self.run.mask(0, self.run.n_pos).positions[:, strip.start : strip.stop]
        return repeated(positions.expand(self.run.batch, -1), len(strip.patches))

    # Ways in: from a patched activation to what attention adds to the stream, and on

    def queries(self, strip: Strip) -> Strip:
        """Patched `hook_q` -> `hook_z`."""
        q = self._placed_alone(strip, 0)
        k, v = (repeated(x[:, : strip.stop], len(strip.patches)) for x in self._placed[1:])
        return replace(strip, x=self._attend(strip, q, k, v))

    def keys(self, strip: Strip) -> Strip:
        """Patched `hook_k` -> `hook_z`."""
        return self._seen_from(
            strip, self._with_strip(self._placed[1], strip, self._placed_alone(strip, 1), self.end), None
        )

    def values(self, strip: Strip) -> Strip:
        """Patched `hook_v` -> `hook_z`."""
        return self._seen_from(
            strip, None, self._with_strip(self._placed[2], strip, self._placed_alone(strip, 2), self.end)
        )

    def _placed_alone(self, strip: Strip, which: int) -> Tensor:
        positions = self._positions(strip)
        return self.attn.place(strip.x, strip.x, strip.x, positions, positions)[which]

    def _seen_from(self, strip: Strip, k: Tensor | None, v: Tensor | None) -> Strip:
        """What the run's own queries gather from other keys or values, from the first of them on."""
        n = len(strip.patches)
        q, own_k, own_v = (repeated(x[:, : self.end], n) for x in self._placed)
        seeing = replace(strip, stop=self.end, x=q[:, strip.start :])
        return replace(seeing, x=self._attend(seeing, seeing.x, own_k if k is None else k, own_v if v is None else v))

    def _attend(self, strip: Strip, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return self.attn.attend(q, k, v, self.run.mask(strip.start, strip.stop, len(strip.patches)))

    def pattern(self, strip: Strip) -> Strip:
        """Patched `hook_pattern` -> `hook_z`."""
        return replace(strip, x=self.attn.gather(strip.x, repeated(self._placed[2], len(strip.patches))))

    def z(self, strips: Sequence[Strip]) -> list[Strip]:
        """Patched `hook_z` -> `hook_resid_post`."""
        attn_out = packed(lambda z: self.block.as_added(self.attn.write(z)), [strip.x for strip in strips])
        return self.attn_out([replace(strip, x=x) for strip, x in zip(strips, attn_out, strict=True)])

    def attn_out(self, strips: Sequence[Strip]) -> list[Strip]:
        """Patched `hook_attn_out` -> `hook_resid_post`."""
        cfg = self.run.model.cfg
        if cfg.parallel_attn_mlp or cfg.attn_only:
            return [self._added(strip, "attn_out") for strip in strips]  # nothing in this block reads it
        resid_pre = [self._corrupted(self.resid_pre, strip) for strip in strips]
        after = packed(self.block.after_attention, resid_pre, [strip.x for strip in strips])
        return [replace(strip, x=x) for strip, x in zip(strips, after, strict=True)]

    def resid_mid(self, strips: Sequence[Strip]) -> list[Strip]:
        """Patched `hook_resid_mid` -> `hook_resid_post`."""
        after = packed(self.block.after_mid, [strip.x for strip in strips])
        return [replace(strip, x=x) for strip, x in zip(strips, after, strict=True)]

    def mlp_out(self, strip: Strip) -> Strip:
        """Patched `hook_mlp_out` -> `hook_resid_post`."""
        return self._added(strip, "mlp_out")

    def _added(self, strip: Strip, name: str) -> Strip:
        """What leaves the block when something else is added to the stream than the run's own."""
        run = self.run
        difference = strip.x - self._corrupted(run.cache[name, self.number], strip)
        return replace(strip, x=self._corrupted(run.entering(self.number + 1), strip) + difference)

    def _corrupted(self, of_run: Tensor, strip: Strip) -> Tensor:
        return repeated(of_run[:, strip.start : strip.stop], len(strip.patches))

    def whole(self, point: str, patches: list[Patch], patched: Tensor) -> Strip:
        """Any patched activation -> `hook_resid_post`, by running the whole block with it put in.

        Parameters
        ----------
        point
            Full name of the activation.
        patched
            ``[n_patches * batch, ...]``, all positions.
        """
        model, n = self.run.model, len(patches)
        resid_pre = repeated(self.resid_pre, n)
        tokens_mask = None if self.run.tokens_mask is None else self.run.tokens_mask.repeat(n, 1)
        with model.hooks([(point, lambda activation, hook: patched)]):
            after = model.run_blocks(
                resid_pre, model.attention_mask(resid_pre, tokens_mask), self.number, self.number + 1
            )
        return Strip(patches, 0, self.run.n_pos, after)

    # The way through

    def through(self, strips: Sequence[Strip], first_query: int) -> list[Strip]:
        """Run the block for strips of the residual stream, from their start to `end`.

        Parameters
        ----------
        first_query
            The first position at which the result is wanted.
        """
        wanted = [strip.narrowed(first_query, self.end) for strip in strips]
        same = all(len(w.x[0]) == len(s.x[0]) for w, s in zip(wanted, strips, strict=True))
        resid, lengths = _pack([strip.x for strip in strips])
        wanted_resid, wanted_lengths = (resid, lengths) if same else _pack([strip.x for strip in wanted])
        normalized = self.block.ln1(resid)
        read = self._plus_positions(normalized, strips)
        query_read = read if same else self._plus_positions(self.block.ln1(wanted_resid), wanted)
        q, k, v = self.attn.place(
            *self.attn.project(query_read, read, normalized), self._all_positions(wanted), self._all_positions(strips)
        )
        gathered = [
            self._attend(
                strip,
                one_q,
                self._with_strip(self._placed[1], whole, one_k, self.end),
                self._with_strip(self._placed[2], whole, one_v, self.end),
            )
            for strip, whole, one_q, one_k, one_v in zip(
                wanted, strips, _unpack(q, wanted_lengths), _unpack(k, lengths), _unpack(v, lengths), strict=True
            )
        ]
        attn_out = self.block.as_added(self.attn.write(_pack(gathered)[0]))
        after = _unpack(self.block.after_attention(wanted_resid, attn_out), wanted_lengths)
        return [replace(strip, x=x) for strip, x in zip(wanted, after, strict=True)]

    def _all_positions(self, strips: Sequence[Strip]) -> Tensor:
        return _pack([self._positions(strip) for strip in strips])[0]

    def _plus_positions(self, normalized: Tensor, strips: Sequence[Strip]) -> Tensor:
        """What queries and keys read: under shortformer, positions too."""
        pos_embed = self.run.pos_embed
        if pos_embed is None:
            return normalized
        pos_embed = pos_embed.expand(self.run.batch, -1, -1)
        return normalized + _pack([self._corrupted(pos_embed, strip) for strip in strips])[0]


def packed(function: Callable[..., Tensor], *columns: Sequence[Tensor]) -> list[Tensor]:
    """Apply what looks at each position alone to many ``[runs, pos, ...]`` at once."""
    lengths = [x.shape[:2] for x in columns[0]]
    return _unpack(function(*(_pack(column)[0] for column in columns)), lengths)


def _pack(xs: Sequence[Tensor]) -> tuple[Tensor, list[torch.Size]]:
    """``[runs, pos, ...]`` of several lengths -> ``[1, rows, ...]``."""
    return torch.cat([x.flatten(0, 1) for x in xs])[None], [x.shape[:2] for x in xs]


def _unpack(rows: Tensor, shapes: Sequence[torch.Size]) -> list[Tensor]:
    parts = rows[0].split([shape.numel() for shape in shapes])
    return [part.unflatten(0, shape) for part, shape in zip(parts, shapes, strict=True)]
