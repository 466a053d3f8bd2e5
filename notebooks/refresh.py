"""Run every notebook from a fresh kernel and keep its outputs as readers without a kernel see them.

``python notebooks/refresh.py`` (or ``make notebooks``) after a change of what a notebook shows.
"""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient

HERE = Path(__file__).parent
WIDGET = "application/vnd.jupyter.widget-view+json"


def run(path: Path) -> nbformat.NotebookNode:
    """Return the notebook with the outputs of a run from top to bottom; raises what a cell raises."""
    notebook = nbformat.read(path, as_version=4)
    resources = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, kernel_name="python3", resources=resources).execute()
    return notebook


def for_readers(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Keep what shows without a kernel: a saved widget is an error message there, its picture is a picture."""
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
        for output in cell.get("outputs", []):
            output.get("data", {}).pop(WIDGET, None)
    return notebook


if __name__ == "__main__":
    for path in sorted(HERE.glob("*.ipynb")):
        print(path.name)
        nbformat.write(for_readers(run(path)), path)
