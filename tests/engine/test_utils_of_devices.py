"""The field's `utils` for devices, placement, hub files and defaults, against the oracle's."""

from __future__ import annotations

import json
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
import transformer_lens.utils as theirs
import transformers
from transformers import AutoTokenizer

from tests.engine.oracle import GPT2_LIKE
from tests.engine.words import fifty_words
from tl_widgets import HookedTransformer
from tl_widgets import utils as ours
from tl_widgets.errors import BadInput

GIB = 2**30


@pytest.fixture
def two_gpus(monkeypatch):
    """What torch says of a machine with two GPUs, the second with more memory to be had."""
    free, reserved, allocated = {0: 4, 1: 6}, {0: 3, 1: 5}, {0: 3, 1: 2}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda i: (free[i] * GIB, 24 * GIB))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda i: reserved[i] * GIB)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda i: allocated[i] * GIB)


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)


def config(**changes):
    cfg = HookedTransformer(GPT2_LIKE).cfg
    for name, value in changes.items():
        setattr(cfg, name, value)
    return cfg


def test_memory(two_gpus):
    assert ours.determine_available_memory_for_available_devices(9) == [(0, 4 * GIB), (1, 9 * GIB)]
    assert ours.determine_available_memory_for_available_devices(1) == [(0, 4 * GIB)]
    assert ours.get_best_available_cuda_device() == torch.device("cuda:1")
    assert ours.get_best_available_cuda_device(1) == torch.device("cuda:0")
    assert ours.get_best_available_device(config(device="cuda", n_devices=2)) == torch.device("cuda:1")
    assert ours.get_best_available_device(config(device="cuda:0")) == torch.device("cuda:0")


def test_no_memory(no_gpu):
    with pytest.raises(BadInput, match="no CUDA device"):
        ours.get_best_available_cuda_device()
    assert ours.get_best_available_device(config(device="cpu")) == torch.device("cpu")


@pytest.mark.parametrize("n_devices", [1, 2, 3])
@pytest.mark.parametrize("device", [None, "cpu", "cuda:1"])
def test_blocks_on_devices(n_devices, device):
    cfg = config(device="cuda:0", n_devices=n_devices, n_layers=6)
    for index in range(6):
        expected = theirs.get_device_for_block_index(index, cfg, device)
        assert ours.get_device_for_block_index(index, cfg, device) == torch.device(expected)


MAPS = [
    (1, None, "cpu"), (None, None, None), (0, None, None), (None, "auto", None), (2, "auto", None),
    (None, {"a": 0, "b": 1}, None), (None, {"": "cpu"}, None), (1, None, "cuda"),
]  # fmt: skip


@pytest.mark.parametrize("max_memory", [None, {0: "1GiB"}], ids=str)
@pytest.mark.parametrize("given", MAPS, ids=str)
def test_device_maps(given, max_memory, no_gpu):
    assert ours.resolve_device_map(*given, max_memory) == theirs.resolve_device_map(*given, max_memory)


def test_device_maps_over_gpus(two_gpus):
    assert ours.resolve_device_map(2, None, None) == ("balanced", {0: 4 * GIB, 1: 9 * GIB})
    assert ours.resolve_device_map(2, None, "cuda", {0: "1GiB"}) == ("balanced", {0: "1GiB"})


@pytest.mark.parametrize(
    "given, message",
    [
        ((3, None, None), "n_devices=3, but this machine has 2"),
        ((None, "auto", "cpu"), "device_map says where"),
        ((None, {"a": 0, "b": "disk"}, None), r"device_map\['b'\]='disk'"),
        ((None, {"a": 0, "b": "cpu"}, None), r"device_map\['b'\]='cpu'"),
    ],
    ids=str,
)
def test_device_maps_that_cannot_be(given, message, two_gpus):
    with pytest.raises(ValueError, match="device"):
        theirs.resolve_device_map(*given)
    with pytest.raises(ValueError, match=message):
        ours.resolve_device_map(*given)


def test_models_that_are_spread():
    hf_model = transformers.GPT2LMHeadModel(
        transformers.GPT2Config(vocab_size=9, n_positions=8, n_embd=8, n_layer=1, n_head=2)
    )
    assert ours.count_unique_devices(hf_model) == 1 and ours.find_embedding_device(hf_model) is None
    hf_model.hf_device_map = {"transformer": 0, "lm_head": 1}
    for module in (theirs, ours):
        assert module.count_unique_devices(hf_model) == 2
        assert module.find_embedding_device(hf_model) == torch.device("cpu")


def test_moving_keeps_the_config_true(capsys):
    model = HookedTransformer(GPT2_LIKE)
    assert ours.move_to_and_update_config(model, torch.float64) is model
    assert (model.cfg.dtype, model.cfg.device) == (torch.float64, "cpu")
    assert "float64" in capsys.readouterr().out
    ours.move_to_and_update_config(model, "meta", print_details=False)
    assert model.cfg.device == "meta" and model.W_E.device.type == "meta"
    assert capsys.readouterr().out == ""


def test_mps_is_warned_of(monkeypatch, recwarn):
    ours.warn_if_mps("cpu")
    monkeypatch.setenv("TRANSFORMERLENS_ALLOW_MPS", "1")
    ours.warn_if_mps("mps")
    assert not recwarn.list
    monkeypatch.delenv("TRANSFORMERLENS_ALLOW_MPS")
    for device in ("mps", torch.device("mps")):
        with pytest.warns(UserWarning, match="TRANSFORMERLENS_ALLOW_MPS=1"):
            ours.warn_if_mps(device)


# Numbers


@pytest.mark.parametrize("cap", [None, -1.0, 0.0, 3.0])
def test_soft_caps(cap):
    x = torch.tensor([-100.0, 1.0, 2.0, 100.0])
    torch.testing.assert_close(ours.apply_softcap(x, cap), theirs.apply_softcap(x, cap))
    assert ours.softcap_enabled(cap) == theirs.softcap_enabled(cap)


@pytest.mark.parametrize("past", [0, 2, 4])
def test_positions_of_real_tokens(past):
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 1]])
    assert torch.equal(ours.get_offset_position_ids(past, mask), theirs.get_offset_position_ids(past, mask))


@pytest.mark.parametrize(
    "fields",
    [dict(rotary_pct=0.25), dict(rope_parameters=dict(partial_rotary_factor=0.3)), dict(rope_parameters=None), {},
     dict(rotary_pct=0.1, rope_parameters=dict(partial_rotary_factor=0.3))],
    ids=str,
)  # fmt: skip
def test_rotary_share(fields):
    given = SimpleNamespace(**fields)
    assert ours.get_rotary_pct_from_config(given) == theirs.get_rotary_pct_from_config(given)


def test_a_parameter_swapped_for_a_while():
    weight = torch.nn.Parameter(torch.ones(2))
    other = torch.zeros(2)
    for module in (theirs, ours):
        with module.temporarily_swap_parameter(weight, other) as inside:
            assert inside is weight and weight.tolist() == [0, 0]
        assert weight.tolist() == [1, 1]
        with pytest.raises(ZeroDivisionError), module.temporarily_swap_parameter(weight, other):
            1 / 0  # noqa: B018
        assert weight.tolist() == [1, 1]
        for wrong in (torch.zeros(3), torch.zeros(2, dtype=torch.float64)):
            with pytest.raises(ValueError, match=r"shape|dtype"), module.temporarily_swap_parameter(weight, wrong):
                pass
        assert weight.tolist() == [1, 1]


def test_compatible_keywords():
    given = dict(a=1, b=2, c=3)
    for function in (lambda a, b=1: 0, lambda a, **others: 0, lambda: 0):
        assert ours.select_compatible_kwargs(given, function) == theirs.select_compatible_kwargs(given, function)
    assert ours.select_compatible_kwargs(given, lambda *, c: 0) == dict(c=3)


# BOS


def test_bos_by_hand():
    for text in ("hi", ["hi", "<s>ho"], []):
        expected = theirs.get_input_with_manually_prepended_bos("<s>", text)
        assert ours.get_input_with_manually_prepended_bos("<s>", text) == expected


def test_a_tokenizer_that_prepends_bos(tmp_path):
    fifty_words().save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    with_bos = ours.get_tokenizer_with_bos(tokenizer)
    for text in ("w05 w06", ["w05", "w06 w07"]):
        assert with_bos(text)["input_ids"] == theirs.get_tokenizer_with_bos(tokenizer)(text)["input_ids"]
    assert tokenizer("w05")["input_ids"] == [5]
    assert with_bos("w05", add_special_tokens=False)["input_ids"] == [5]
    assert ours.get_tokenizer_with_bos(with_bos) is with_bos
    # A tokenizer made on the spot has no switch to set.
    assert ours.get_tokenizer_with_bos(fifty_words())("w05 w06")["input_ids"] == [1, 5, 6]
    tokenizer.bos_token = None
    with pytest.raises(BadInput, match="no BOS"):
        ours.get_tokenizer_with_bos(tokenizer)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("bos", ["w01", "w02", "w03"])  # its own, EOS, padding
def test_bos_taken_off(side, bos):
    tokenizer = fifty_words(bos_token=bos, padding_side=side)
    i = tokenizer.bos_token_id
    rows = {"left": [[3, 3, i, 5], [i, 5, 6, 7]], "right": [[i, 5, 3, 3], [i, 5, 6, 7]]}
    tokens = torch.tensor(rows[side])
    expected = {"left": [[3, 3, 5], [5, 6, 7]], "right": [[5, 3, 3], [5, 6, 7]]}
    for given in (side, None):
        actual = ours.get_tokens_with_bos_removed(tokenizer, tokens, given)
        assert torch.equal(actual, theirs.get_tokens_with_bos_removed(tokenizer, tokens, given))
        assert actual.tolist() == expected[side]


# The hub's files


@pytest.fixture
def hub_cache(tmp_path, monkeypatch):
    """A hub cache that holds one small repository, so that the hub's own client runs without a network."""
    cache = tmp_path / "hub"
    repository = cache / "models--someone--tiny"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    (snapshot / "config.json").write_text(json.dumps({"a": 1}))
    (snapshot / "README.md").write_text("hello")
    torch.save({"weight": torch.ones(2)}, snapshot / "model.pth")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    scan = huggingface_hub.scan_cache_dir
    monkeypatch.setattr(huggingface_hub, "scan_cache_dir", lambda: scan(cache))
    return cache


def test_one_file(hub_cache):
    options = dict(cache_dir=str(hub_cache))
    assert ours.download_file_from_hf("someone/tiny", "config.json", **options) == {"a": 1}
    assert ours.download_file_from_hf("someone/tiny", "model.pth", **options)["weight"].tolist() == [1, 1]
    assert ours.download_file_from_hf("someone/tiny", "README.md", **options).endswith("README.md")


def test_clearing_asks_and_leaves_alone_what_is_not_the_hubs(hub_cache, monkeypatch, capsys):
    (hub_cache / "notes.txt").write_text("mine")
    repository = hub_cache / "models--someone--tiny"

    def nobody(question):
        raise EOFError

    for answer in (lambda question: "n", lambda question: "", nobody):
        monkeypatch.setattr("builtins.input", answer)
        ours.clear_huggingface_cache()
        assert repository.exists()
    asked = []
    monkeypatch.setattr("builtins.input", lambda question: asked.append(question) or "y")
    ours.clear_huggingface_cache()
    assert not repository.exists() and (hub_cache / "notes.txt").read_text() == "mine"
    assert "1 repositories" in asked[0] and str(hub_cache) in asked[0]
    assert "Deleted" in capsys.readouterr().out


def test_clearing_without_a_question(hub_cache):
    ours.clear_huggingface_cache(ask=False)
    assert not (hub_cache / "models--someone--tiny").exists()
