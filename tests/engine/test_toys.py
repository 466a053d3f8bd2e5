"""The shipped toys: they load at once, and have inside what they are there to show."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from tl_widgets import HookedTransformer
from tl_widgets.loading.names import TOYS
from tl_widgets.toys import RECIPES, Lesson, Toy, grammar, induction, repeated_words, sentences

pytestmark = pytest.mark.usefixtures("no_gradients")


@pytest.fixture
def no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def inductive():
    return HookedTransformer.from_pretrained("toy-induction")


@pytest.fixture(scope="module")
def reader():
    return HookedTransformer.from_pretrained("toy-1l-mlp")


def test_together_they_are_small():
    assert sum(path.stat().st_size for folder in TOYS.values() for path in folder.rglob("*.safetensors")) <= 2 * 10**6
    assert set(TOYS) == set(RECIPES)


@pytest.mark.parametrize("name", TOYS)
def test_they_are_what_their_recipes_say(name):
    shipped, recipe = HookedTransformer.from_pretrained_no_processing(name), RECIPES[name].untrained(name)
    differing = {key for key, value in recipe.cfg.to_dict().items() if getattr(shipped.cfg, key) != value}
    assert differing <= {"device", "seed", "init_weights", "original_architecture"}
    assert shipped.tokenizer.get_vocab() == recipe.tokenizer.get_vocab()


@pytest.mark.parametrize("name", TOYS)
def test_processing_keeps_log_probabilities(name):
    raw = HookedTransformer.from_pretrained_no_processing(name)
    processed = HookedTransformer.from_pretrained(name.upper())
    assert (raw.cfg.normalization_type, processed.cfg.normalization_type) == ("LN", "LNPre")
    tokens = torch.randint(3, raw.cfg.d_vocab, (8, raw.cfg.n_ctx), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(processed(tokens).log_softmax(-1), raw(tokens).log_softmax(-1), atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("name, nearest", [("toy-inducton", "toy-induction"), ("toy-1l-mpl", "toy-1l-mlp")])
def test_misspelt_names(name, nearest):
    with pytest.raises(ValueError, match=f"Did you mean '{nearest}'"):
        HookedTransformer.from_pretrained(name)


def test_words_read_naturally(inductive, reader):
    assert inductive.to_str_tokens("Red dog  horse") == ["<bos>", "red", "dog", "horse"]
    assert inductive.to_string(inductive.to_tokens("red dog", prepend_bos=False)) == ["red dog"]
    assert inductive.to_single_token(" dog") == inductive.to_single_token("dog")
    assert reader.to_string(reader.to_tokens("The dogs sleep . two", prepend_bos=False)[0]) == "the dogs sleep. two"
    assert reader.to_str_tokens("the zebra", prepend_bos=False) == ["the", "<unk>"]
    assert reader.generate("the dogs near the", max_new_tokens=4, verbose=False).startswith("the dogs near the ")


# toy-induction


def random_words_twice(model, n_words=25):
    generator = torch.Generator().manual_seed(11)
    words = torch.rand(100, model.cfg.d_vocab - 3, generator=generator).argsort(-1)[:, :n_words] + 3
    bos = torch.full((100, 1), model.tokenizer.bos_token_id)
    return torch.cat([bos, words, words], dim=1)


def test_the_second_time_is_known(inductive):
    tokens = random_words_twice(inductive)
    logits, loss = inductive(tokens, return_type="both", loss_per_token=True)
    hits = logits[:, :-1].argmax(-1) == tokens[:, 1:]
    # The first word of the second time is where the repetition shows.
    assert hits[:, 26:].float().mean() > 0.99 and loss[:, 26:].mean() < 0.05
    assert hits[:, :25].float().mean() < 0.05 and loss[:, :25].mean() > 5


def test_a_previous_token_head_feeds_induction_heads(inductive):
    _, cache = inductive.run_with_cache(random_words_twice(inductive))
    to_previous = cache["pattern", 0].diagonal(-1, -2, -1)[..., 1:].mean((0, -1))
    to_what_came_next = cache["pattern", 1].diagonal(-24, -2, -1)[..., 1:].mean((0, -1))
    assert to_previous.max() > 0.7
    assert (to_what_came_next > 0.9).all()
    head = to_previous.argmax().item()

    def silence(z, hook):
        z[:, :, head] = z[:, :, head].mean((0, 1))

    tokens = random_words_twice(inductive)
    loss = inductive.run_with_hooks(
        tokens, return_type="loss", loss_per_token=True, fwd_hooks=[("blocks.0.attn.hook_z", silence)]
    )
    assert loss[:, 26:].mean() > 2


# toy-1l-mlp


def test_it_knows_its_grammar(reader):
    def next_words(prompt):
        return set(reader.to_str_tokens(reader(prompt)[0, -1].topk(4).indices, prepend_bos=False))

    assert next_words("the dogs near the house") <= {many.split("/")[1] for many in grammar.LIVES.split()}
    assert next_words("one dog near the house") <= {one.split("/")[0] for one in grammar.LIVES.split()}
    assert next_words("two plums near the house") == {many.split("/")[1] for many in grammar.GROWS.split()}
    for (first, second), mixed in grammar.MIXED.items():
        for prompt in (f"{first} and {second} make", f"{second} and {first} make"):
            assert reader.to_string(reader(prompt)[0, -1].argmax()) == mixed


def test_it_can_add(reader):
    number = {word: i for i, word in enumerate(grammar.NUMBERS, start=1)}
    sums = [(a, b) for a in number for b in number if number[a] + number[b] <= 12]
    said = reader([f"{a} and {b} make" for a, b in sums])[:, -1].argmax(-1)
    assert reader.to_string(said[:, None]) == [grammar.NUMBERS[number[a] + number[b] - 1] for a, b in sums]


@pytest.mark.parametrize("kind", ["name", "colour", "fruit", "what people do"])
def test_some_neuron_fires_for_one_kind_of_word(reader, kind):
    tokens = sentences(reader.tokenizer, 300, 32, seed=7)
    _, cache = reader.run_with_cache(tokens, names_filter="blocks.0.mlp.hook_post")
    post = cache["post", 0].flatten(0, 1)
    fires = post > 0.1 * post.amax(0)
    words = reader.to_tokens(" ".join(grammar.CATEGORIES[kind]), prepend_bos=False)
    is_one = torch.isin(tokens.flatten(), words)
    on_it, elsewhere = fires[is_one].float().mean(0), fires[~is_one].float().mean(0)
    assert ((on_it > 0.75) & (elsewhere < 0.05)).any()


def test_neurons_do_the_work(reader):
    tokens = sentences(reader.tokenizer, 100, 32, seed=7)

    def say_the_same_everywhere(mlp_out, hook):
        mlp_out[:] = mlp_out.mean((0, 1))

    hooks = [("blocks.0.hook_mlp_out", say_the_same_everywhere)]
    silenced = reader.run_with_hooks(tokens, return_type="loss", fwd_hooks=hooks)
    assert silenced > reader(tokens, return_type="loss") + 1


# What they are trained on, and the training


@pytest.mark.parametrize("has_prefix", [False, True])
def test_repeated_words_repeat(inductive, has_prefix):
    rows = repeated_words(inductive.tokenizer, 200, 64, has_prefix, seed=3)
    assert rows.shape == (200, 64) and (rows[:, 0] == inductive.tokenizer.bos_token_id).all() and rows[:, 1:].min() == 3
    starts = []
    for row in rows[:, 1:]:
        period = next(p for p in range(1, 63) if row[-1] == row[-1 - p])
        same = (row[period:] == row[:-period]).flip(0).cumprod(0).sum().item()
        assert 4 <= period <= 31 and same >= period  # at least twice
        starts.append(63 - period - same)
    assert (max(starts) > 20) if has_prefix else (max(starts) == 0)


def test_a_recipe_is_repeatable_and_keeps_checkpoints(tmp_path):
    lesson = Lesson(repeated_words, 128, dict(num_epochs=1, print_every=None))
    toy = Toy(induction.TOY.words, induction.TOY.shape | dict(d_model=16, d_head=8, n_heads=2), [lesson])
    once, again = toy.train(save_every=1, save_dir=tmp_path), toy.train()
    assert torch.equal(once.W_E, again.W_E) and not torch.equal(once.W_E, toy.untrained().W_E)
    last = HookedTransformer.from_pretrained_no_processing(str(tmp_path / "lesson-1" / "step-2"))
    assert torch.equal(last.W_E, once.W_E)


def test_the_command_line_names_what_there_is():
    asked = [sys.executable, "-m", "tl_widgets.toys", "toy-abduction"]
    answer = subprocess.run(asked, capture_output=True, text=True)
    assert answer.returncode == 2 and "there is toy-induction, toy-1l-mlp" in answer.stderr
