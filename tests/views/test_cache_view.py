"""The Python side of the cache's view: what it sends, what it answers, what it refuses, how long it lives."""

from __future__ import annotations

import gc
import json
import threading
import weakref

import ipywidgets
import numpy as np
import pytest
import torch
import traitlets

from tl_widgets import HookedTransformer
from tl_widgets.views.thumbnails import NAN, TOP, pool, quantise

SMALL = dict(n_layers=3, d_model=16, n_heads=4, d_head=4, n_ctx=256, d_vocab=50, act_fn="gelu", seed=0)


@pytest.fixture(scope="module")
def model():
    return HookedTransformer(SMALL)


@pytest.fixture
def cache(model):
    return model.run_with_cache(torch.arange(24).reshape(2, 12))[1]


class Page:
    """The other side of the wire: collects what the view sends."""

    def __init__(self, view):
        self.view, self.replies = view, []
        view.send = lambda content, buffers=None: self.replies.append((content, buffers or []))

    def ask(self, **message):
        number = len(self.replies)
        self.view._handle_custom_msg({"id": number, **message}, [])
        reply, buffers = self.replies[-1]
        assert reply["id"] == number
        return reply, buffers

    def pattern(self, **changes):
        whole = dict(kind="pattern", example=0, layer=0, head=0, rows=[0, 12], cols=[0, 12], size=None)
        return self.ask(**whole | changes)


@pytest.fixture
def page(cache):
    return Page(cache.view)


def test_a_pattern_arrives_as_exact_float32(cache, page):
    reply, [buffer] = page.pattern(example=1, layer=2, head=3, rows=[2, 9], cols=[0, 5])
    assert reply["ok"] and reply["shape"] == [7, 5]
    sent = np.frombuffer(buffer, "<f4").reshape(7, 5)
    np.testing.assert_array_equal(sent, cache["pattern", 2][1, 3, 2:9, :5].detach().numpy())


def test_a_pooled_pattern_keeps_the_largest_weight_of_each_window(cache, page):
    reply, [buffer] = page.pattern(size=[4, 4])
    assert reply["shape"] == [4, 4]
    expected = cache["pattern", 0][0, 0].reshape(4, 3, 4, 3).amax((1, 3))
    np.testing.assert_allclose(np.frombuffer(buffer, "<f4").reshape(4, 4), expected.detach().numpy())


@pytest.mark.parametrize(
    "wrong, says",
    [
        (dict(layer=3), "layer is 0 to 2"),
        (dict(layer=-1), "layer is 0 to 2"),
        (dict(layer="0"), "layer is 0 to 2"),
        (dict(layer=True), "layer is 0 to 2"),
        (dict(head=4), "head is 0 to 3"),
        (dict(head=10**30), "head is 0 to 3"),
        (dict(example=2), "example is 0 to 1"),
        (dict(rows=[0, 13]), "rows is 1 to 12"),
        (dict(rows=[5, 5]), "rows is 6 to 12"),
        (dict(cols=None), "cols is"),
        (dict(cols=[0, 1, 2]), "cols is"),
        (dict(size=[0, 4]), "size is 1 to 128"),
        (dict(size="big"), "size is"),
        (dict(kind="evaluate"), "Unknown request 'evaluate'"),
        (dict(kind=None), "Unknown request None"),
    ],
    ids=str,
)
def test_a_wrong_request_is_answered_with_an_error(page, wrong, says):
    reply, buffers = page.pattern(**wrong)
    assert reply["ok"] is False and says in reply["error"] and not buffers


@pytest.mark.parametrize("message", [None, 3, "pattern", [], {"id": 7}])
def test_a_message_that_is_no_request_is_answered_too(page, message):
    page.view._handle_custom_msg(message, [])
    assert page.replies[-1][0]["ok"] is False


def test_requests_from_another_thread_while_grad_is_on(cache, page):
    replies = []
    thread = threading.Thread(target=lambda: replies.append(page.pattern(layer=1)))
    thread.start()
    thread.join()
    [(reply, [buffer])] = replies
    assert reply["ok"] and len(buffer) == 12 * 12 * 4


def test_selection_is_checked_and_counts_from_the_end(cache):
    view = cache.view
    seen = []
    view.observe(lambda change: seen.append((change.name, change.new)), ["layer", "head"])
    other = (view.layer + 1) % 3
    view.layer, view.head = other, -1
    assert (view.layer, view.head) == (other, 3)
    assert ("layer", other) in seen
    for name, bad, says in (
        ("layer", 3, "there is 0 to 2"),
        ("head", 4, "0 to 3"),
        ("position", 12, "0 to 11"),
        ("example", 2, "0 to 1"),
    ):
        before = getattr(view, name)
        with pytest.raises((ValueError, traitlets.TraitError), match=says):
            setattr(view, name, bad)
        assert getattr(view, name) == before


def test_one_view_a_cache(cache):
    assert cache.view is cache.view


def test_another_example_brings_its_thumbnails(cache):
    view = cache.view
    first = view.thumbs
    view.example = 1
    assert view.thumbs_example == 1
    assert view.thumbs != first
    codes = np.frombuffer(view.thumbs, np.uint8).reshape(3, 4, 12, 12)
    expected = torch.stack([cache["pattern", layer][1] for layer in range(3)]).detach().numpy()
    assert np.abs(codes / TOP - expected).max() <= 0.5 / TOP + 1e-6


def test_thumbnail_codes():
    weights = torch.tensor([0.0, 1.0, 0.5, float("nan"), 2.0, -1.0])
    assert quantise(weights).tolist() == [0, TOP, 127, NAN, TOP, 0]
    assert pool(torch.eye(4), 2, 2).tolist() == [[1, 0], [0, 1]]


@pytest.mark.parametrize("n_pos", [1, 2, 12, 128, 200])
def test_the_opened_pattern_is_the_selected_heads(model, n_pos):
    _, cache = model.run_with_cache(torch.zeros(1, n_pos, dtype=torch.long))
    view = cache.view
    shape = [min(n_pos, 128)] * 2
    assert view.spec["opened"] == {"example": 0, "layer": view.layer, "head": view.head, "shape": shape}
    opened = np.frombuffer(view.opened, "<f4").reshape(shape)
    exact = cache["pattern", view.layer][0, view.head].detach()
    np.testing.assert_array_equal(opened, pool(exact, *shape).numpy())
    assert view.position == n_pos - 1


def test_budgets_of_a_12_by_12_by_128_cache():
    model = HookedTransformer(SMALL | dict(n_layers=12, n_heads=12, d_model=48))
    _, cache = model.run_with_cache(torch.randint(0, 50, (1, 128)))
    view = cache.view
    state, _, buffers = ipywidgets.widgets.widget._remove_buffers(view.get_state())
    without_javascript = {name: value for name, value in state.items() if name != "_esm"}
    total = len(json.dumps(without_javascript)) + sum(len(memoryview(b)) for b in buffers)
    assert 100_000 < total <= 250_000
    reply, [pattern] = Page(view).pattern(rows=[0, 128], cols=[0, 128])
    assert reply["ok"] and len(pattern) + len(json.dumps(reply)) <= 70_000


def test_the_budget_holds_for_any_model():
    from tl_widgets.views.cache_view import THUMBNAILS_BUDGET
    from tl_widgets.views.thumbnails import thumbnail_side

    for n_heads in (1, 9, 144, 270, 80 * 64, 126 * 128):
        for n_pos in (1, 15, 128, 4096):
            side = thumbnail_side(n_heads, n_pos, THUMBNAILS_BUDGET)
            assert 1 <= side <= n_pos and n_heads * side * side <= THUMBNAILS_BUDGET


def test_without_batch_dimension_and_in_half_precision(model):
    _, cache = model.run_with_cache(torch.arange(12), remove_batch_dim=True)
    reply, [buffer] = Page(cache.view).pattern(layer=1, head=2)
    assert reply["ok"] and cache.view.spec["batched"] is False
    np.testing.assert_array_equal(np.frombuffer(buffer, "<f4").reshape(12, 12), cache["pattern", 1][2].detach().numpy())
    half = HookedTransformer(SMALL | dict(dtype="bf16"))
    _, cache = half.run_with_cache(torch.arange(12))
    reply, [buffer] = Page(cache.view).pattern()
    assert reply["ok"] and np.frombuffer(buffer, "<f4").sum() == pytest.approx(12, rel=0.02)


def test_only_the_cached_layers_are_rows(model):
    _, cache = model.run_with_cache(torch.arange(12), names_filter=["blocks.1.attn.hook_pattern"])
    assert cache.view.spec["layers"] == [1] and cache.view.layer == 1
    with pytest.raises(ValueError, match="there is 1"):
        cache.view.layer = 0


@pytest.mark.parametrize("kept", [dict(names_filter="hook_embed"), dict(pos_slice=(0, 3))], ids=str)
def test_a_cache_with_nothing_to_show_is_text_that_says_why(model, kept):
    _, cache = model.run_with_cache(torch.arange(12), **kept)
    data, _ = cache._repr_mimebundle_()
    assert list(data) == ["text/plain"] and "no attention pattern" in data["text/plain"]
    with pytest.raises(ValueError, match="no attention pattern"):
        cache.view  # noqa: B018


def test_the_mimebundle_holds_view_picture_and_text(cache):
    data, metadata = cache._repr_mimebundle_()
    assert data["application/vnd.jupyter.widget-view+json"]["model_id"] == cache.view.model_id
    assert data["text/plain"] == repr(cache)
    assert data["image/png"].startswith("iVBORw0KGgo")  # a PNG's first bytes
    assert metadata["image/png"]["width"] > 300


# How long a cache lives


def test_a_cache_that_is_not_shown_dies_with_its_name_and_takes_the_view_along(model):
    _, cache = model.run_with_cache(torch.arange(12))
    view, gone = cache.view, weakref.ref(cache)
    assert view.model_id in ipywidgets.widgets.widget._instances
    model_id = view.model_id
    del cache
    gc.collect()
    assert gone() is None
    assert model_id not in ipywidgets.widgets.widget._instances
    reply, _ = Page(view).pattern()
    assert reply["ok"] is False and "run the cell again" in reply["error"]


def test_a_shown_view_keeps_its_cache_until_the_last_page_goes(model):
    _, cache = model.run_with_cache(torch.arange(12))
    page, gone = Page(cache.view), weakref.ref(cache)
    page.ask(kind="open", view="left")
    page.ask(kind="open", view="right")
    del cache
    gc.collect()
    page.ask(kind="close", view="left")
    gc.collect()
    assert gone() is not None and page.pattern()[0]["ok"]
    page.ask(kind="close", view="right")
    gc.collect()
    assert gone() is None


def test_displaying_keeps_the_cache_until_a_page_has_come_and_gone(model):
    _, cache = model.run_with_cache(torch.arange(12))
    cache._repr_mimebundle_()
    page, gone = Page(cache.view), weakref.ref(cache)
    del cache
    gc.collect()
    assert gone() is not None
    page.ask(kind="open", view="a")
    page.ask(kind="close", view="a")
    gc.collect()
    assert gone() is None
