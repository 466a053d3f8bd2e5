"""Every notebook that we ship runs from top to bottom, and shows something where nothing runs."""

from pathlib import Path

import nbformat
import pytest

from notebooks.refresh import WIDGET, for_readers, run
from tl_widgets import HookedTransformer

NOTEBOOKS = sorted(Path(__file__).parents[1].joinpath("notebooks").glob("*.ipynb"))


def kinds(notebook):
    """Return, for each code cell, what its outputs are: streams by name, displayed data by MIME type."""
    return [
        [output.get("name") or sorted(output["data"]) for output in cell.outputs]
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs_and_is_committed_with_what_it_shows(path):
    # The very first reading of the model tells of its progress, which is no part of a notebook's story.
    HookedTransformer.from_pretrained("smollm2-135m-instruct", first_n_layers=1)
    committed = nbformat.read(path, as_version=4)
    fresh = for_readers(run(path))
    assert kinds(committed) == kinds(fresh), "run `make notebooks` and commit"
    last = committed.cells[-1].outputs[-1].data
    assert "image/png" in last and "text/plain" in last and WIDGET not in last
