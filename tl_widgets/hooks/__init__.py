"""Hooks on any torch module: `HookPoint` marks an activation, `HookedRootModule` finds and manages the points.

A hook is ``fn(activation, hook=hook_point)``: a returned tensor replaces the activation, ``None`` keeps it (and an
in-place edit counts either way).
"""

from tl_widgets.hooks.bare import bare_copy
from tl_widgets.hooks.point import HookFunction, HookPoint, is_altered, is_watched, may_edit
from tl_widgets.hooks.recording import Recorder, grows_with_the_square, has_batch_axis
from tl_widgets.hooks.root_module import HookedRootModule, NamedHook, NamesFilter

__all__ = [
    "HookFunction",
    "HookPoint",
    "HookedRootModule",
    "NamedHook",
    "NamesFilter",
    "Recorder",
    "bare_copy",
    "grows_with_the_square",
    "has_batch_axis",
    "is_altered",
    "is_watched",
    "may_edit",
]
