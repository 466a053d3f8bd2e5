"""The harness itself, on a notebook that has nothing of ours in it."""

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from tests.browser.lab import LabPage
from tests.browser.watched import WatchedPage


def notebook(*cells: str) -> nbformat.NotebookNode:
    return new_notebook(cells=[new_markdown_cell("# A notebook"), *map(new_code_cell, cells)])


def background(lab: LabPage) -> int:
    """Brightness of the notebook's ground, 0 to 255."""
    colour = lab.page.eval_on_selector(".jp-Notebook", "node => getComputedStyle(node).backgroundColor")
    return int(colour.strip("rgba()").split(",")[0])


def test_notebook_runs_and_kernel_answers(lab: LabPage) -> None:
    lab.open(notebook("x = 40", "print('noise')\nx + 2"))
    lab.run_all()
    assert lab.output().locator("pre").last.text_content() == "42"
    assert lab.value("1 + 1") == 2
    assert lab.value("{'x': x, 'text': '<ü>'}") == {"x": 40, "text": "<ü>"}
    assert lab.run("x += 1; print(x)") == "41\n"
    lab.assert_no_console_errors()


def test_both_themes(lab: LabPage) -> None:
    lab.open(notebook("1"))
    lab.theme("Light")
    assert background(lab) > 200
    lab.theme("Dark")
    assert background(lab) < 60
    assert lab.screenshot("harness-dark").stat().st_size > 0
    lab.assert_no_console_errors()


def test_failing_cell_is_told(lab: LabPage) -> None:
    lab.open(notebook("1 / 0", "'never run'"))
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        lab.run_all()
    with pytest.raises(AssertionError, match="NameError"):
        lab.value("no_such_name")


def test_trouble_on_a_page_is_told(page: WatchedPage) -> None:
    page.page.set_content("<p>quiet</p>")
    page.assert_no_console_errors()
    page.page.evaluate("() => { console.error('loud'); setTimeout(() => { throw new Error('late'); }); }")
    page.page.evaluate("() => fetch('http://elsewhere.example/').catch(() => null)")
    with pytest.raises(AssertionError) as told:
        page.assert_no_console_errors()
    for trouble in ("loud", "late", "foreign request: http://elsewhere.example/", "ERR_NAME_NOT_RESOLVED"):
        assert trouble in str(told.value)
