"""Names, parameters and defaults of the reference API, against the installed oracle."""

from __future__ import annotations

import inspect

import pytest
import torch
import transformer_lens
import transformer_lens.utils as their_utils
from transformer_lens import HookedRootModule
from transformer_lens import evals as their_evals
from transformer_lens import head_detector as their_head_detector
from transformer_lens.hook_points import HookPoint

import tl_widgets
from tl_widgets import utils as our_utils
from tl_widgets.analysis import evals, head_detector

# What is different on purpose, and why.
ON_PURPOSE = {
    "HookedTransformer.from_pretrained dtype": "a torch dtype, as in from_pretrained_no_processing; names are accepted",
    "HookedTransformer.to device_or_dtype": "takes all that torch's Module.to does",
    "HookedTransformer.to print_details": "nothing is printed unless asked for",
    **{
        f"{owner}.{method} {hooks}": "empty all the same; a default that nobody can change"
        for owner in ("HookedTransformer", "HookedRootModule")
        for method in ("hooks", "run_with_hooks")
        for hooks in ("fwd_hooks", "bwd_hooks")
    },
    "HookedTransformer.list_hooks": "not in the reference page; hooks are read from each point's fwd_hooks",
    "HookedRootModule.list_hooks": "not in the reference page; hooks are read from each point's fwd_hooks",
    "utils.download_file_from_hf cache_dir": "None is the same directory, looked up at each call",
    "evals.evaluate_on_dataset device": "None is where the model is: 'cuda' fails without one",
    "evals.induction_loss subseq_len": "None is 384, or what fits a smaller context",
    "evals.induction_loss device": "None is where the model is: 'cuda' fails without one",
}
# Parameters that are named by their place alone, so that the name is free.
_UNNAMED = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)

UTILS = [
    "LocallyOverridenDefaults", "Slice", "apply_softcap", "calc_fan_in_and_fan_out",
    "calculate_available_device_cuda_memory", "check_structure", "clear_huggingface_cache", "composition_scores",
    "count_unique_devices", "determine_available_memory_for_available_devices", "download_file_from_hf",
    "filter_dict_by_prefix", "find_embedding_device", "gelu_fast", "gelu_new", "get_act_name", "get_attention_mask",
    "get_best_available_cuda_device", "get_best_available_device", "get_corner", "get_cumsum_along_dim",
    "get_dataset", "get_device", "get_device_for_block_index", "get_input_with_manually_prepended_bos",
    "get_matrix_corner", "get_nested_attr", "get_offset_position_ids", "get_rotary_pct_from_config",
    "get_tokenizer_with_bos", "get_tokens_with_bos_removed", "init_kaiming_normal_", "init_kaiming_uniform_",
    "init_xavier_normal_", "init_xavier_uniform_", "is_library_available", "is_lower_triangular", "is_square",
    "keep_single_column", "lm_accuracy", "lm_cross_entropy_loss", "logits_to_df", "move_to_and_update_config",
    "override_or_use_default_value", "print_gpu_mem", "remove_batch_dim", "repeat_along_head_dimension",
    "resolve_device_map", "sample_logits", "select_compatible_kwargs", "set_nested_attr", "softcap_enabled", "solu",
    "sort_devices_based_on_available_memory", "temporarily_swap_parameter", "test_prompt", "to_numpy",
    "tokenize_and_concatenate", "transpose", "warn_if_mps",
]  # fmt: skip

CLASSES = [
    (transformer_lens.HookedTransformer, tl_widgets.HookedTransformer),
    (HookPoint, tl_widgets.HookPoint),
    (HookedRootModule, tl_widgets.HookedRootModule),
    (transformer_lens.FactoredMatrix, tl_widgets.FactoredMatrix),
    (their_evals.IOIDataset, evals.IOIDataset),
]


def differences(owner: str, theirs, ours, names) -> set[str]:
    found = set()
    for name in names:
        if not hasattr(ours, name):
            found.add(f"{owner}.{name}")
            continue
        yours, mine = getattr(theirs, name), getattr(ours, name)
        if not callable(yours) or name.startswith("gelu"):
            continue  # a property has no parameters, and torch's own gelu no signature
        found |= {f"{owner}.{name} {parameter}" for parameter in differing_parameters(yours, mine)}
    return found


def differing_parameters(theirs, ours) -> set[str]:
    """Those of `theirs` that have another name, place or default in `ours`; more at the end are welcome."""
    expected, actual = (list(inspect.signature(f).parameters.values()) for f in (theirs, ours))
    found = set()
    for i, parameter in enumerate(expected):
        mine = actual[i] if i < len(actual) else None
        if parameter.kind in _UNNAMED:
            same = any(p.kind == parameter.kind for p in actual)  # behind keywords of ours too
        else:
            same = mine is not None and (mine.name, mine.default) == (parameter.name, parameter.default)
        found |= set() if same else {parameter.name}
    extra = [p for p in actual[len(expected) :] if p.default is p.empty and p.kind not in _UNNAMED]
    return found | {f"needs {p.name}" for p in extra}


def defined_by(cls) -> list[str]:
    """Public names of a class and of its bases in the oracle, and how it is built."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith("transformer_lens")]
    return ["__init__", *(name for base in ours for name in vars(base) if not name.startswith("_"))]


def all_differences() -> set[str]:
    found = differences("utils", their_utils, our_utils, UTILS)
    functions = [name for name in evals.__all__ if inspect.isfunction(getattr(evals, name))]
    found |= differences("evals", their_evals, evals, functions)
    detector = [name for name in dir(their_head_detector) if name.startswith(("get_", "detect", "compute"))]
    found |= differences("head_detector", their_head_detector, head_detector, set(detector) - {"get_args"})
    for theirs, ours in CLASSES:
        found |= differences(ours.__name__, theirs, ours, defined_by(theirs))
    return found


def test_only_what_is_meant_to_differ_does():
    assert all_differences() == set(ON_PURPOSE)


def test_config_fields_and_defaults():
    expected = inspect.signature(transformer_lens.HookedTransformerConfig).parameters
    actual = inspect.signature(tl_widgets.HookedTransformerConfig).parameters
    assert {name: p.default for name, p in actual.items()} == {name: p.default for name, p in expected.items()}


@pytest.mark.parametrize(
    "theirs, ours, found",
    [
        (lambda a, b=1: 0, lambda a, b=1, c=2: 0, set()),
        (lambda a, b=1: 0, lambda a, b=2: 0, {"b"}),
        (lambda a, b=1: 0, lambda b, a=1: 0, {"a", "b"}),
        (lambda a, b: 0, lambda a: 0, {"b"}),
        (lambda a: 0, lambda a, b: 0, {"needs b"}),
        (lambda **a: 0, lambda **b: 0, set()),
        (lambda **a: 0, lambda b=1: 0, {"a"}),
        (lambda **a: 0, lambda *, b=1, **c: 0, set()),
    ],
)
def test_the_comparison_itself_finds_what_it_should(theirs, ours, found):
    assert differing_parameters(theirs, ours) == found


def test_every_name_of_utils_is_listed_once():
    assert sorted(our_utils.__all__) == sorted(UTILS) and isinstance(our_utils.gelu_new(torch.ones(1)), torch.Tensor)
