"""The first notebook as a user has it: a real JupyterLab, the real model, a page that must agree with the kernel."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from playwright.sync_api import Locator, expect

from tests.browser.lab import LabPage

NOTEBOOK = Path(__file__).parents[2] / "notebooks" / "01_first_look.ipynb"


class Explorer:
    """The view of a cache on a page."""

    def __init__(self, lab: LabPage, nth: int = 0) -> None:
        self.lab = lab
        self.root = lab.page.get_by_test_id("tlw-root").nth(nth)

    def part(self, name: str) -> Locator:
        return self.root.get_by_test_id(f"tlw-{name}")

    def expect_shown(self, layer: int, head: int) -> None:
        expect(self.root).to_have_attribute("data-layer", str(layer))
        expect(self.root).to_have_attribute("data-head", str(head))
        expect(self.root).to_have_attribute("data-exact", "true")

    def layout(self, name: str) -> dict:
        return json.loads(self.part(name).get_attribute("data-layout") or "{}")

    def head_at(self, layer: int, head: int) -> dict[str, float]:
        """Return the centre of a thumbnail, in pixels from the corner of the grid."""
        grid = self.layout("grid")
        (layer_x, layer_y), (head_x, head_y) = grid["layerStep"], grid["headStep"]
        return {
            "x": grid["x"] + layer * layer_x + head * head_x + grid["cellWidth"] / 2,
            "y": grid["y"] + layer * layer_y + head * head_y + grid["cellHeight"] / 2,
        }

    def weight_at(self, query: int, key: int) -> dict[str, float]:
        """Return the centre of a cell, in pixels from the corner of the large pattern."""
        pattern = self.layout("pattern")
        return {
            "x": pattern["x"] + (key + 0.5) * pattern["cellWidth"],
            "y": pattern["y"] + (query + 0.5) * pattern["cellHeight"],
        }


@pytest.fixture
def explorer(lab: LabPage) -> Explorer:
    lab.page.set_viewport_size({"width": 1600, "height": 1050})
    lab.open(NOTEBOOK)
    lab.run_all()
    explorer = Explorer(lab)
    expect(explorer.root).to_be_visible()
    return explorer


def test_first_look(lab: LabPage, explorer: Explorer) -> None:
    expect(lab.output(3)).to_contain_text("' Mary'")
    explorer.expect_shown(lab.value("cache.view.layer"), lab.value("cache.view.head"))
    expect(explorer.root).to_contain_text("SmolLM2-135M-Instruct")

    # A click on a head selects it, in the page and in Python.
    explorer.part("grid").scroll_into_view_if_needed()
    explorer.part("grid").click(position=explorer.head_at(23, 3))
    explorer.expect_shown(23, 3)
    lab.page.wait_for_timeout(200)
    assert lab.value("[cache.view.layer, cache.view.head]") == [23, 3]

    # The tooltip says the two tokens and exactly the number that the kernel has.
    explorer.part("pattern").hover(position=explorer.weight_at(14, 10))
    expect(explorer.part("tooltip")).to_be_visible()
    shown = explorer.part("exact").first.text_content() or ""
    kernel = np.float32(lab.value("float(cache['pattern', 23][0, 3, 14, 10])"))
    assert np.float32(shown) == kernel
    assert kernel > 0.5
    expect(explorer.part("tooltip")).to_contain_text("to")
    expect(explorer.part("tooltip")).to_contain_text("John")
    expect(explorer.part("readout")).to_contain_text("L23H3")
    expect(explorer.root).to_contain_text('cache["pattern", 23][0, 3, 14, 10]')

    # Python moves the selection and the page follows.
    lab.run("cache.view.layer, cache.view.head = 10, 1")
    explorer.expect_shown(10, 1)
    lab.run("cache.view.layer = -1")
    explorer.expect_shown(29, 1)
    lab.assert_no_console_errors()


def test_keyboard_walks_the_grid_and_jupyterlab_does_not_hear_it(lab: LabPage, explorer: Explorer) -> None:
    lab.run("cache.view.layer, cache.view.head = 10, 1")
    explorer.expect_shown(10, 1)
    cells_before = lab.page.locator(".jp-Cell").count()
    explorer.part("grid").focus()
    for key in ("ArrowRight", "ArrowDown", "ArrowDown", "ArrowLeft"):
        lab.page.keyboard.press(key)
    explorer.expect_shown(12, 1)
    lab.page.keyboard.press("]")
    explorer.expect_shown(13, 1)
    lab.page.keyboard.press("[")
    lab.page.keyboard.press("[")
    explorer.expect_shown(11, 1)
    lab.page.wait_for_timeout(200)
    assert lab.value("[cache.view.layer, cache.view.head]") == [11, 1]
    # In command mode these would cut, delete, convert and insert cells.
    for key in ("x", "m", "a", "d", "d", "j", "1", "Enter"):
        lab.page.keyboard.press(key)
    expect(explorer.root).to_be_visible()
    explorer.expect_shown(11, 1)
    assert lab.page.locator(".jp-Cell").count() == cells_before
    lab.assert_no_console_errors()


def test_hover_previews_and_is_not_sent(lab: LabPage, explorer: Explorer) -> None:
    before = lab.value("[cache.view.layer, cache.view.head]")
    lab.run("heard = []; cache.view.on_msg(lambda view, message, buffers: heard.append(message))")
    explorer.part("grid").scroll_into_view_if_needed()
    explorer.part("grid").hover(position=explorer.head_at(5, 5))
    expect(explorer.root).to_have_attribute("data-layer", "5")
    expect(explorer.root).to_have_attribute("data-head", "5")
    lab.page.wait_for_timeout(300)
    assert lab.value("[cache.view.layer, cache.view.head]") == before
    assert lab.value("heard") == []
    lab.page.mouse.move(2, 2)
    explorer.expect_shown(*before)


@pytest.mark.crisp
@pytest.mark.parametrize("theme", ["Light", "Dark"])
def test_both_themes(lab: LabPage, explorer: Explorer, theme: str) -> None:
    lab.theme(theme)
    lab.run("cache.view.layer, cache.view.head = 23, 3")
    explorer.expect_shown(23, 3)
    explorer.part("pattern").scroll_into_view_if_needed()
    explorer.part("pattern").hover(position=explorer.weight_at(14, 10))
    expect(explorer.part("tooltip")).to_be_visible()
    notebook = lab.screenshot(f"first-look-{theme.lower()}")
    explorer.root.screenshot(path=notebook.with_stem(f"explorer-{theme.lower()}"))
    lab.assert_no_console_errors()


REAL_TWO_LAYERS = """from tl_widgets import HookedTransformer
model = HookedTransformer.from_pretrained("smollm2-135m-instruct", first_n_layers=2)"""
SMALL = """from tl_widgets import HookedTransformer
model = HookedTransformer(dict(n_layers=3, d_model=16, n_ctx=64, d_head=4, act_fn="gelu", d_vocab=50, seed=0))"""


def test_a_cell_run_again_frees_the_old_cache(lab: LabPage) -> None:
    # Through display(), not at the cell's end: what a cell returns IPython's own history keeps alive.
    lab.open(
        new_notebook(
            cells=[
                new_code_cell(SMALL),
                new_code_cell("cache = model.run_with_cache([3, 1, 4, 1, 5])[1]\ndisplay(cache)"),
            ]
        )
    )
    lab.run_all()
    explorer = Explorer(lab)
    explorer.expect_shown(lab.value("cache.view.layer"), lab.value("cache.view.head"))
    lab.run("import gc, weakref; first = weakref.ref(cache); del cache")
    assert lab.value("(gc.collect(), first() is not None)[1]"), "a displayed view keeps its cache alive"
    lab.run_all()
    expect(explorer.root).to_have_count(1)
    explorer.expect_shown(lab.value("cache.view.layer"), lab.value("cache.view.head"))
    assert lab.value("(gc.collect(), first() is None)[1]"), "the cell ran again: nobody shows the first cache"
    assert lab.value("cache.view.model_id in __import__('ipywidgets').widgets.widget._instances")
    lab.assert_no_console_errors()


def test_copied_code_names_the_cache_that_is_shown(lab: LabPage) -> None:
    run = "model.run_with_cache([3, 1, 4, 1, 5])[1]"
    lab.open(new_notebook(cells=[new_code_cell(SMALL), new_code_cell(f"cache = {run}\nclean = {run}\nclean")]))
    lab.run_all()
    expect(Explorer(lab).root).to_contain_text('clean["pattern", ')


def test_a_batch_of_hostile_tokens_is_text(lab: LabPage) -> None:
    lab.open(
        new_notebook(
            cells=[
                new_code_cell(REAL_TWO_LAYERS),
                new_code_cell(f"cache = model.run_with_cache({HOSTILE!r})[1]\ncache"),
            ]
        )
    )
    lab.run_all()
    explorer = Explorer(lab)
    expect(explorer.root).to_be_visible()
    assert lab.page.evaluate("window.hacked") is None
    assert explorer.root.locator("img, script").count() == 0
    expect(explorer.root).to_contain_text("onerror")
    lab.run("cache.view.example = 1")
    expect(explorer.root).to_contain_text("short")
    explorer.root.screenshot(path=lab.screenshot("hostile").with_stem("explorer-hostile"))
    lab.assert_no_console_errors()


HOSTILE = [
    "<img src=x onerror='window.hacked=1'>\n\t</script>\u05e9\u05dc\u05d5\u05dd \U0001f9ea e\u0301 <b>bold</b>",
    "a short one",
]
