"""Checkpoints of training runs: the tables against the oracle's, and what the hub is asked for."""

from __future__ import annotations

import huggingface_hub
import pytest
import transformers
from transformer_lens import loading_from_pretrained as theirs

from tests.engine.test_loading import gpt2
from tl_widgets import HookedTransformer
from tl_widgets.loading.checkpoints import find_checkpoint, get_checkpoint_labels

CRFM = "stanford-crfm/alias-gpt2-small-x21"


@pytest.mark.parametrize(
    "name", ["EleutherAI/pythia-70m", "EleutherAI/pythia-1.4b-deduped", "EleutherAI/pythia-160m-v0", CRFM,
             "stanford-crfm/eowyn-gpt2-medium-x777"],
)  # fmt: skip
def test_tables(name):
    assert get_checkpoint_labels(name) == theirs.get_checkpoint_labels(name)


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """What the hub is asked for; it answers with a random GPT-2."""
    gpt2().save_pretrained(tmp_path)
    calls = []

    def snapshot_download(hub_id, **options):
        calls.append((hub_id, options.get("revision")))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return calls


@pytest.mark.parametrize(
    "given, index, value",
    [
        (dict(checkpoint_index=2), 2, 20),
        (dict(checkpoint_index=-1), 608, 400_000),
        (dict(checkpoint_value=0), 0, 0),
        (dict(checkpoint_value=1950), 47, 1950),
        (dict(checkpoint_label="checkpoint-1000"), 28, 1000),
    ],
    ids=str,
)
def test_the_hub_is_asked_for_the_revision_and_the_config_says_so(asked, given, index, value):
    cfg = HookedTransformer.from_pretrained("stanford-gpt2-small-a", **given).cfg
    assert asked == [(CRFM, f"checkpoint-{value}")]
    assert (cfg.from_checkpoint, cfg.checkpoint_label_type) == (True, "step")
    assert (cfg.checkpoint_index, cfg.checkpoint_value) == (index, value)
    assert get_checkpoint_labels(CRFM)[0][index] == value


def test_without_a_checkpoint(asked):
    cfg = HookedTransformer.from_pretrained("stanford-gpt2-small-a").cfg
    assert asked == [(CRFM, None)]
    assert (cfg.from_checkpoint, cfg.checkpoint_index, cfg.checkpoint_value) == (False, None, None)


def test_pythia_is_found_though_its_family_is_another_matter():
    found = find_checkpoint("EleutherAI/pythia-70m", value=143_000)
    assert (found.index, found.revision) == (153, "step143000")
    assert find_checkpoint("EleutherAI/pythia-70m-v0", value=1000).index == 0


@pytest.mark.parametrize(
    "name, given, message",
    [
        (CRFM, dict(checkpoint_value=101), r"step 101; the nearest: 100 and 150\. There are 609, from 0 to 400000"),
        (CRFM, dict(checkpoint_value=500_000), "nearest: 400000"),
        (CRFM, dict(checkpoint_value=-5), "nearest: 0"),
        (CRFM, dict(checkpoint_index=609), "checkpoint_index is 0 to 608"),
        (CRFM, dict(checkpoint_index=1, checkpoint_value=10), "One of checkpoint_index and checkpoint_value"),
        (CRFM, dict(checkpoint_label="checkpoint-11"), "checkpoint-1"),
        (CRFM, dict(checkpoint_value="100"), "a whole number, not '100'"),
        (CRFM, dict(checkpoint_index=True), "a whole number, not True"),
        (CRFM, dict(checkpoint_value=100, revision="main"), "revision= out"),
        ("gpt2", dict(checkpoint_index=0), "No checkpoints of 'gpt2'.*revision="),
        ("smollm2-135m-instruct", dict(checkpoint_index=0), "No checkpoints of"),
    ],
)
def test_mistakes(asked, name, given, message):
    with pytest.raises((ValueError, TypeError), match=message):
        HookedTransformer.from_pretrained(name, **given)
    assert asked == []


def test_a_local_directory_or_an_object_has_no_checkpoints(tmp_path):
    hf_model: transformers.PreTrainedModel = gpt2()
    hf_model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="a local directory or file holds one set of weights"):
        HookedTransformer.from_pretrained(str(tmp_path), checkpoint_index=0)
    with pytest.raises(ValueError, match="leave hf_model="):
        HookedTransformer.from_pretrained(CRFM, hf_model=hf_model, checkpoint_index=0)
