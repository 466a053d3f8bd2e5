"""Training: learns what can be learnt, step by step as the field's trainer does."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings

import pytest
import torch
import transformer_lens.train
from torch import nn

from tests.engine.oracle import GPT2_LIKE, pair
from tl_widgets import HookedTransformer, HookedTransformerTrainConfig, train

pytestmark = pytest.mark.usefixtures("one_thread")

ROWS = torch.randint(0, 50, (20, 8), generator=torch.Generator().manual_seed(0))
DATASET = [{"tokens": row} for row in ROWS]
QUICK = dict(num_epochs=2, batch_size=4, print_every=None)


@pytest.fixture
def one_thread():
    """For models so small that a second thread would mostly wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def small():
    return HookedTransformer(dict(GPT2_LIKE))


def weights(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        dict(max_grad_norm=0.1),
        dict(warmup_steps=3),
        dict(optimizer_name="Adam", weight_decay=0.1),
        dict(optimizer_name="AdamW"),
        dict(optimizer_name="AdamW", weight_decay=0.1),
        dict(optimizer_name="SGD", lr=0.1),
        dict(optimizer_name="SGD", lr=0.1, momentum=0.9, weight_decay=0.1, seed=3),
    ],
    ids=str,
)
def test_every_step_is_the_field_s(settings):
    theirs, ours = pair(GPT2_LIKE)
    settings = dict(num_epochs=3, batch_size=4) | settings
    with contextlib.redirect_stdout(io.StringIO()):
        transformer_lens.train.train(
            theirs, transformer_lens.train.HookedTransformerTrainConfig(**settings, device="cpu"), DATASET
        )
    assert train(ours, HookedTransformerTrainConfig(**settings, print_every=None), DATASET) is ours
    expected = theirs.state_dict()
    for name, weight in weights(ours).items():
        # Softmax never sees b_K: its gradient is rounding, which Adam blows up to full steps.
        if not name.endswith("b_K"):
            torch.testing.assert_close(
                weight, expected[name], atol=2e-5, rtol=0, msg=lambda m, name=name: f"{name}: {m}"
            )


def modular_addition(p=11):
    """Every ``a + b = c`` modulo p, with a token for "="."""
    a, b = torch.cartesian_prod(torch.arange(p), torch.arange(p)).T
    return torch.stack([a, b, torch.full_like(a, p), (a + b) % p], dim=1)


def test_a_plain_torch_loop_learns_modular_addition():
    rows = modular_addition()
    model = HookedTransformer(
        dict(n_layers=1, d_model=64, n_heads=4, d_head=16, d_mlp=128, n_ctx=4, act_fn="relu", d_vocab=12, seed=0)
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(300):
        # The two numbers are random: only the answer can be learnt.
        model(rows, return_type="loss", loss_per_token=True)[:, -1].mean().backward()
        optimizer.step()
        optimizer.zero_grad()
    with torch.no_grad():
        assert torch.equal(model(rows)[:, 2].argmax(-1), rows[:, 3])


def test_train_learns_repeated_sequences():
    """Of a sequence of random tokens that comes twice, the second time is known."""
    generator = torch.Generator().manual_seed(0)
    half = torch.rand(4000, 16, generator=generator).argsort(-1)[:, :6]
    rows = torch.cat([half, half], dim=1)
    model = HookedTransformer(
        dict(n_layers=2, d_model=48, n_heads=2, d_head=24, n_ctx=12, attn_only=True, d_vocab=16, seed=0)
    )
    config = HookedTransformerTrainConfig(num_epochs=6, batch_size=64, lr=4e-3, warmup_steps=20, print_every=None)
    train(model, config, [{"tokens": row} for row in rows[:-200]])
    with torch.no_grad():
        predicted = model(rows[-200:])[:, 6:-1].argmax(-1)
    assert torch.equal(predicted, rows[-200:, 7:])


# Steps, prints, saves


def test_max_steps_and_prints(capsys):
    train(small(), HookedTransformerTrainConfig(num_epochs=4, batch_size=4, print_every=3, max_steps=7), DATASET)
    printed = capsys.readouterr().out.split("\n")
    told = [line.split(" Loss ")[0] for line in printed if "Loss" in line]
    assert told == ["Epoch 1 Step 1", "Epoch 1 Step 3", "Epoch 2 Step 6"]
    model = small()
    before = weights(model)
    train(model, HookedTransformerTrainConfig(**QUICK, max_steps=0), DATASET)
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_saves_can_be_loaded(tmp_path, capsys):
    model = small()
    train(model, HookedTransformerTrainConfig(**QUICK, save_every=5, save_dir=tmp_path), DATASET)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-10", "step-5"]
    last, earlier = (
        HookedTransformer.from_pretrained_no_processing(str(tmp_path / name)) for name in ("step-10", "step-5")
    )
    assert torch.equal(last(ROWS), model(ROWS))
    assert not torch.equal(earlier(ROWS), model(ROWS))


def test_interrupting_keeps_what_was_learned(capsys):
    model = small()
    before = weights(model)
    runs = iter([None, None, KeyboardInterrupt])

    def press_at_the_third_run(activation, hook):
        if next(runs):
            raise KeyboardInterrupt

    with model.hooks(fwd_hooks=[("hook_embed", press_at_the_third_run)]):
        assert train(model, HookedTransformerTrainConfig(**QUICK), DATASET) is model
    assert "Stopped in step 3" in capsys.readouterr().out
    assert not torch.equal(before["embed.W_E"], model.embed.W_E)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_streams_and_rows_of_lists():
    class Stream(torch.utils.data.IterableDataset):
        def __iter__(self):
            return iter({"tokens": row.tolist(), "text": "of unequal kinds"} for row in ROWS)

    in_order, streamed = small(), small()
    train(streamed, HookedTransformerTrainConfig(**QUICK), Stream())
    # The same rows in the same order, as one batch leaves no order.
    optimizer = torch.optim.AdamW(in_order.parameters(), lr=1e-3, weight_decay=0)
    for _ in range(2):
        for batch in ROWS.split(4):
            in_order(batch, return_type="loss").backward()
            optimizer.step()
            optimizer.zero_grad()
    torch.testing.assert_close(streamed(ROWS), in_order(ROWS))


def test_a_data_set_of_hugging_face():
    datasets = pytest.importorskip("datasets")
    ours, theirs = small(), small()
    train(ours, HookedTransformerTrainConfig(**QUICK), DATASET)
    columns = datasets.Dataset.from_dict({"tokens": ROWS.tolist(), "text": ["x"] * len(ROWS)})
    train(theirs, HookedTransformerTrainConfig(**QUICK), columns)
    assert torch.equal(ours(ROWS), theirs(ROWS))


def test_wandb_is_asked_for_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    model = small()
    before = weights(model)
    with pytest.raises(ImportError, match="pip install wandb"):
        train(model, HookedTransformerTrainConfig(**QUICK, wandb=True), DATASET)
    assert all(torch.equal(before[name], weight) for name, weight in weights(model).items())


def test_wandb_offline(tmp_path, monkeypatch):
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    monkeypatch.setenv("WANDB_SILENT", "true")
    model, seen = small(), []

    def look(activation, hook):  # from inside the run: a finished one has no summary any more
        seen.append((wandb.run.project, wandb.run.config["batch_size"], dict(wandb.run.summary)))

    with model.hooks(fwd_hooks=[("hook_embed", look)]):
        train(model, HookedTransformerTrainConfig(**QUICK, wandb=True, wandb_project_name="toys"), DATASET)
    project, batch_size, summary = seen[-1]
    assert (project, batch_size, summary["epoch"]) == ("toys", 4, 2)
    assert 0 < summary["train_loss"] < 10
    assert wandb.run is None  # finished


# Mistakes


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(optimizer_name="AdamV"), "Did you mean 'Adam' or 'AdamW'"),
        (dict(batch_size=0), "batch_size is at least 1, not 0"),
        (dict(print_every=0), "print_every is at least 1, not 0"),
        (dict(batch_size=2.5), "batch_size is a whole number, not 2.5"),
        (dict(lr=-1), "lr is at least 0, not -1"),
        (dict(lr=float("nan")), "lr is at least 0, not nan"),
        (dict(momentum=3), "momentum is at least 0 and at most 1, not 3"),
        (dict(max_grad_norm=-1), "max_grad_norm is at least 0, not -1"),
        (dict(weight_decay=-1), "weight_decay is at least 0, not -1"),
        (dict(save_every=3), "save_every and save_dir go together"),
    ],
)
def test_settings_that_cannot_be_obeyed(settings, message):
    with pytest.raises(ValueError, match=message):
        HookedTransformerTrainConfig(**dict(num_epochs=1, batch_size=4) | settings)


@pytest.mark.parametrize(
    "dataset, message",
    [
        ([], "empty"),
        ([{"text": "tokens, please"}], "no 'tokens' to train on, only 'text'"),
        ([{"tokens": [1, 2]}, {"tokens": [1, 2, 3]}], "2 to 3 tokens"),
    ],
)
def test_data_sets_that_cannot_be_trained_on(dataset, message):
    with pytest.raises(ValueError, match=message):
        train(small(), HookedTransformerTrainConfig(**QUICK), dataset)


# Weights that a user sets


@pytest.mark.parametrize(
    "set_weight",
    [
        lambda owner, name, value: setattr(getattr(owner, name), "data", value),
        lambda owner, name, value: setattr(owner, name, nn.Parameter(value)),
        lambda owner, name, value: getattr(owner, name).data.copy_(value),
    ],
    ids=["data", "a new Parameter", "copied into"],
)
@pytest.mark.parametrize(
    "room, name",
    [("blocks.0.attn", n) for n in ("W_Q", "W_K", "W_V", "W_O", "b_Q")]
    + [
        ("blocks.1.mlp", "W_in"),
        ("blocks.1.mlp", "b_out"),
        ("embed", "W_E"),
        ("pos_embed", "W_pos"),
        ("unembed", "W_U"),
    ],
)
@torch.no_grad()
def test_weights_that_a_user_sets_count(set_weight, room, name):
    theirs, ours = pair(GPT2_LIKE)
    before = ours(ROWS)
    value = torch.randn(getattr(ours.get_submodule(room), name).shape, generator=torch.Generator().manual_seed(1))
    set_weight(ours.get_submodule(room), name, value.clone())
    getattr(theirs.get_submodule(room), name).data.copy_(value)
    after = ours(ROWS)
    assert not torch.allclose(after, before, atol=1e-2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.testing.assert_close(after, theirs(ROWS), atol=1e-4, rtol=1e-4)
