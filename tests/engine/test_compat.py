"""The field's module names, under our package's name and under the field's."""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
import sys

import pytest

import tl_widgets
from tl_widgets.compat import MODULES


@pytest.mark.parametrize("name", MODULES)
def test_the_field_s_modules_are_found_under_our_name(name):
    module = importlib.import_module(f"tl_widgets.{name}")
    if importlib.util.find_spec(f"transformer_lens.{name}") is None:
        assert name in ("HookedTransformerConfig", "past_key_value_caching")  # of version 2
        return
    theirs = importlib.import_module(f"transformer_lens.{name}")
    for each in module.__all__ if isinstance(MODULES[name], dict) else ():
        assert hasattr(theirs, each), each


def test_names_of_the_package_stay_what_they_are():
    assert callable(tl_widgets.train) and isinstance(tl_widgets.HookedTransformer, type)
    from tl_widgets.HookedTransformer import HookedTransformer
    from tl_widgets.train import train

    assert train is tl_widgets.train and HookedTransformer is tl_widgets.HookedTransformer


SCRIPT = """
import tl_widgets
tl_widgets.as_transformer_lens()
import transformer_lens
import transformer_lens.utils as utils
from transformer_lens import ActivationCache, FactoredMatrix, HookedTransformer, HookedTransformerConfig, patching
from transformer_lens.components import MLP, TransformerBlock
from transformer_lens.evals import IOIDataset
from transformer_lens.head_detector import detect_head
from transformer_lens.hook_points import HookedRootModule, HookPoint
from transformer_lens.tools.analysis import direct_logit_attribution
from transformer_lens.train import HookedTransformerTrainConfig
from transformer_lens.utils import get_act_name
assert HookedTransformer is tl_widgets.HookedTransformer
model = HookedTransformer.from_pretrained("toy-induction")
logits, cache = model.run_with_cache("red dog big house red dog big")
assert isinstance(cache, ActivationCache) and isinstance(model.blocks[0], TransformerBlock)
assert cache[get_act_name("pattern", 1)].shape[1] == 4
"""


def test_the_field_s_imports_mean_this_package():
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_it_says_so_where_the_other_is_imported_already():
    import transformer_lens  # noqa: F401

    with pytest.raises(ValueError, match="started anew"):
        tl_widgets.as_transformer_lens()
