"""How a sweep runs: the engine's ideas, each with a switch, and what its caller chooses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Shortcuts:
    """What a sweep leaves out; none of it changes a number, and tests and benchmarks switch each off to see that.

    Attributes
    ----------
    resume
        Start at the patched layer, from the corrupted run's residual stream.
    batch
        Run many patches at once.
    skip
        Run no patch that changes nothing: its value is the baseline.
    by_position
        Recompute no position before the first that a patch changes, nor behind the last that is read.
    read
        Unembed only what a metric says it reads.
    """

    resume: bool = True
    batch: bool = True
    skip: bool = True
    by_position: bool = True
    read: bool = True


ALL = Shortcuts()


@dataclass(frozen=True)
class Options:
    """See `tl_widgets.patching.sweep`."""

    batch_size: int | None = None
    per_example: bool = False
    shortcuts: Shortcuts = ALL
