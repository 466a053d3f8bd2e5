"""Weights in: where they come from (`sources`), how they read (`families`), and how they are processed."""

from tl_widgets.loading.load import config_of, fill_
from tl_widgets.loading.processing import process_
from tl_widgets.loading.sources import Source, find_source

__all__ = ["Source", "config_of", "fill_", "find_source", "process_"]
