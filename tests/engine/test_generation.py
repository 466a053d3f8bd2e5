"""Generation: greedily the oracle's tokens; the rules of sampling, stopping, padding and return types."""

from __future__ import annotations

import itertools

import pytest
import torch
from transformer_lens import utils as their_utils

from tests.engine.oracle import CACHED_BY_THE_ORACLE, CONFIGS, GPT2_LIKE, LLAMA_LIKE, pair
from tests.engine.words import CHAT_TEMPLATE, fifty_words
from tl_widgets import HookedTransformer, utils
from tl_widgets.text import generation

TOKENS = torch.tensor([[5, 9, 17, 30], [40, 41, 8, 7]])
GREEDY = dict(do_sample=False, verbose=False, stop_at_eos=False)
with_and_without_cache = pytest.mark.parametrize("use_past_kv_cache", [True, False], ids=["cache", "no cache"])


@pytest.fixture
def model():
    _, ours = pair(LLAMA_LIKE)
    ours.set_tokenizer(fifty_words())
    return ours


@with_and_without_cache
@pytest.mark.parametrize("name", CONFIGS)
def test_greedy_tokens_are_the_oracles(name, use_past_kv_cache):
    config = CONFIGS[name]
    theirs, ours = pair(config)
    theirs.tokenizer = fifty_words()  # without one the oracle's cache counts positions twice
    options = GREEDY | dict(max_new_tokens=15, use_past_kv_cache=use_past_kv_cache)
    theirs_can = use_past_kv_cache and name in CACHED_BY_THE_ORACLE
    expected = theirs.generate(TOKENS, **options | dict(use_past_kv_cache=theirs_can))
    assert torch.equal(ours.generate(TOKENS, **options), expected)
    after_embeds = ours.generate(ours.embed(TOKENS), return_type="tokens", **options)
    # With an embedding too the oracle's cache counts positions twice.
    options["use_past_kv_cache"] = False
    assert torch.equal(after_embeds, theirs.generate(theirs.embed(TOKENS), return_type="tokens", **options))


@with_and_without_cache
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "how",
    [
        {},
        dict(temperature=0.3),
        dict(top_k=3),
        dict(top_p=0.6),
        dict(top_k=5, top_p=0.1),
        dict(freq_penalty=2.0, temperature=0.7),
        dict(temperature=0.0),
    ],
    ids=str,
)
def test_a_seed_draws_what_it_draws_in_the_oracle(how, seed, use_past_kv_cache):
    theirs, ours = pair(GPT2_LIKE)
    theirs.tokenizer = fifty_words()
    options = GREEDY | dict(do_sample=True, max_new_tokens=10, use_past_kv_cache=use_past_kv_cache) | how
    torch.manual_seed(seed)
    expected = theirs.generate(TOKENS, **options)
    torch.manual_seed(seed)
    assert torch.equal(ours.generate(TOKENS, **options), expected)


@pytest.mark.parametrize(
    "how",
    [
        dict(repetition_penalty=1.7),
        dict(repetition_penalty=1.7, freq_penalty=0.9, temperature=0.6, top_k=20),
        dict(repetition_penalty=1.7, freq_penalty=0.9, top_p=0.8),
        dict(top_k=1000),
        dict(top_p=1.0),
        dict(temperature=0.0, freq_penalty=100.0),
    ],
    ids=str,
)
def test_sample_logits_draws_what_the_oracle_draws(how):
    logits = 3 * torch.randn(300, 50, generator=torch.Generator().manual_seed(0))
    tokens = torch.randint(0, 50, (300, 20), generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    expected = their_utils.sample_logits(logits, tokens=tokens, **how)
    torch.manual_seed(0)
    assert torch.equal(utils.sample_logits(logits, tokens=tokens, **how), expected)


def test_greedy_never_draws():
    _, ours = pair(GPT2_LIKE)
    hard = dict(temperature=5.0, top_k=2, freq_penalty=9.0)
    assert torch.equal(ours.generate(TOKENS, **GREEDY, **hard), ours.generate(TOKENS, **GREEDY))


@with_and_without_cache
def test_rows_end_at_eos_and_are_filled_up_with_it(use_past_kv_cache):
    theirs, ours = pair(GPT2_LIKE)
    free = ours.generate(TOKENS, max_new_tokens=12, **GREEDY)
    first, second = free[0, 5].item(), free[1, 8].item()
    for eos in (first, [first], [second, first], (49, second)):
        options = GREEDY | dict(stop_at_eos=True, eos_token_id=eos, max_new_tokens=12)
        out = ours.generate(TOKENS, use_past_kv_cache=use_past_kv_cache, **options)
        their_options = options | dict(eos_token_id=eos if isinstance(eos, int) else list(eos))
        assert torch.equal(out, theirs.generate(TOKENS, use_past_kv_cache=False, **their_options))


def test_generation_stops_as_soon_as_every_row_has_ended():
    _, ours = pair(GPT2_LIKE)
    free = ours.generate(TOKENS, max_new_tokens=12, **GREEDY)
    options = GREEDY | dict(stop_at_eos=True, eos_token_id=free[:, 5].tolist(), max_new_tokens=12)
    runs = []
    with ours.hooks([("hook_embed", lambda x, hook: runs.append(x.shape[1]))]):
        out = ours.generate(TOKENS, **options)
    assert out.shape[1] <= 6 and len(runs) == out.shape[1] - 4


@with_and_without_cache
@pytest.mark.parametrize("side", [None, "left", "right"])
@pytest.mark.parametrize("config", ["gpt2-like", "llama-like grouped", "local attention"])
def test_unequal_prompts_go_on_as_each_does_alone(config, side, use_past_kv_cache):
    _, model = pair(CONFIGS[config])
    model.set_tokenizer(fifty_words())
    prompts = ["w05 w06 w07 w08 w09 w20", "w21 w22", "w30 w31 w32"]
    options = GREEDY | dict(max_new_tokens=12, use_past_kv_cache=use_past_kv_cache)
    expected = [model.generate(prompt, return_type="tokens", **options)[0, -12:] for prompt in prompts]
    out = model.generate(prompts, padding_side=side, return_type="tokens", **options)
    assert torch.equal(out[:, -12:], torch.stack(expected))
    assert out[1, 0] == (1 if side == "right" else 3)
    tokens = model.to_tokens(prompts, padding_side=side or "left")
    assert torch.equal(model.generate(tokens, padding_side=side or "left", **options), out)


def test_what_is_returned(model):
    options = GREEDY | dict(max_new_tokens=4)
    tokens = model.to_tokens("w05 w06")
    out = model.generate(tokens, **options)
    text = model.to_string(out[0, 1:])
    assert out.shape == (1, 7)
    assert model.generate("w05 w06", **options) == text
    assert model.generate(["w05 w06"], **options) == text  # as in the reference: one row of text is a string
    assert model.generate(["w05 w06", "w05 w06"], **options) == [text, text]
    assert model.generate(tokens, return_type="str", **options) == text
    assert torch.equal(model.generate("w05 w06", return_type="tokens", **options), out)
    assert torch.equal(model.generate(tokens[0], **options), out)
    assert torch.equal(model.generate(tokens, return_type="embeds", **options), model.embed(out))
    embed = model.embed(tokens)
    torch.testing.assert_close(model.generate(embed, **options), model.embed(out))
    assert torch.equal(model.generate(embed, return_type="tokens", **options), out[:, 3:])
    assert model.generate(embed, return_type="str", **options) == model.to_string(out[0, 3:])
    assert torch.equal(model.generate(tokens, **options | dict(max_new_tokens=0)), tokens)
    assert not model.generate(embed.detach().requires_grad_(), **options).requires_grad


def test_an_empty_prompt_starts_from_bos(model):
    options = GREEDY | dict(return_type="tokens")
    expected = model.generate(torch.tensor([[1]]), **options)
    assert torch.equal(model.generate("", **options), expected)
    assert torch.equal(model.generate("", prepend_bos=False, **options), expected)
    assert torch.equal(model.generate(**options), expected)
    # Where BOS, EOS and padding are one token, as in GPT-2, it is still a beginning.
    model.set_tokenizer(fifty_words(bos_token="w03", eos_token="w03"))
    alone = model.generate("", **options)
    assert torch.equal(model.generate(torch.tensor([[3]]), **options), alone)
    torch.testing.assert_close(model(torch.tensor([[3]])), model(""))


@with_and_without_cache
def test_hooks_are_at_work_all_along(use_past_kv_cache):
    theirs, ours = pair(GPT2_LIKE)
    theirs.tokenizer = fifty_words()
    seen = []

    def steer(x, hook):
        seen.append(tuple(x.shape))
        return x + 3.0

    options = GREEDY | dict(max_new_tokens=6, use_past_kv_cache=use_past_kv_cache)
    for name in ("blocks.1.hook_resid_mid", "blocks.0.attn.hook_pattern", "ln_final.hook_scale", "unembed.hook_in"):
        with theirs.hooks([(name, steer)]):
            expected = theirs.generate(TOKENS, **options)
        their_shapes, seen[:] = list(seen), []
        with ours.hooks([(name, steer)]):
            assert torch.equal(ours.generate(TOKENS, **options), expected)
        assert seen == their_shapes
        seen.clear()
    assert not torch.equal(expected, ours.generate(TOKENS, **options))


def test_only_the_last_position_is_unembedded():
    _, ours = pair(GPT2_LIKE)
    seen = []
    ours.unembed.register_forward_hook(lambda module, inputs, output: seen.append(tuple(output.shape)))
    for use_past_kv_cache in (True, False):
        ours.generate(TOKENS, max_new_tokens=3, use_past_kv_cache=use_past_kv_cache, **GREEDY)
    assert seen == [(2, 1, 50)] * 6


def test_an_interruption_keeps_what_was_made():
    _, ours = pair(GPT2_LIKE)
    whole = ours.generate(TOKENS, max_new_tokens=8, **GREEDY)
    countdown = itertools.count()

    def interrupt(x, hook):
        if next(countdown) == 3:
            raise KeyboardInterrupt

    with ours.hooks([("blocks.1.hook_resid_post", interrupt)]), pytest.warns(UserWarning, match="by then, 3 tokens"):
        out = ours.generate(TOKENS, max_new_tokens=8, **GREEDY | dict(verbose=True))
    assert torch.equal(out, whole[:, :7])
    assert not any(point.has_hooks() for point in ours.hook_points())


@with_and_without_cache
def test_the_context_ends_it_with_a_warning(use_past_kv_cache):
    _, ours = pair(GPT2_LIKE)
    options = GREEDY | dict(use_past_kv_cache=use_past_kv_cache)
    with pytest.warns(UserWarning, match="after 29 tokens at the latest.*context of 32"):
        out = ours.generate(TOKENS, max_new_tokens=100, **options)
    assert out.shape == (2, 33)
    assert torch.equal(out[:, -1], ours(out[:, :-1])[:, -1].argmax(-1))
    with pytest.raises(ValueError, match="40 tokens are more than"):
        ours.generate(torch.zeros(1, 40, dtype=torch.long), **options)


@pytest.mark.parametrize("size", [1, 3, 25])
def test_a_stream_yields_the_same_in_parts(model, size):
    options = GREEDY | dict(max_new_tokens=8)
    tokens = model.to_tokens("w05 w06")
    whole = model.generate(tokens, **options)
    parts = list(model.generate_stream(tokens, max_tokens_per_yield=size, **options))
    assert torch.equal(torch.cat(parts, dim=1), whole)
    assert [part.shape[1] for part in parts] == {1: [4] + [1] * 7, 3: [4, 3, 3, 1], 25: [11]}[size]
    for prompts in ("w05 w06", ["w05 w06", "w07"]):
        parts = list(model.generate_stream(prompts, max_tokens_per_yield=size, return_type="str", **options))
        whole_text = model.generate(prompts, **options)
        if isinstance(prompts, str):
            assert "".join(parts) == whole_text
        else:
            assert ["".join(row) for row in zip(*parts, strict=True)] == whole_text


def test_a_stream_comes_as_it_goes(model):
    runs = []
    with model.hooks([("hook_embed", lambda x, hook: runs.append(1))]):
        stream = model.generate_stream("w05 w06", max_new_tokens=8, max_tokens_per_yield=1, **GREEDY)
        next(stream)
        assert len(runs) == 1
        next(stream)
        assert len(runs) == 2


def test_progress_is_shown_unless_told_otherwise(model, capfd):
    model.generate("w05", max_new_tokens=3, **GREEDY)
    assert capfd.readouterr() == ("", "")
    model.generate("w05", max_new_tokens=3, **GREEDY | dict(verbose=True))
    assert "Generating" in capfd.readouterr().err


def test_what_was_generated_can_be_trained_on(model):
    out = model.generate("w05 w06", return_type="tokens", **GREEDY)
    model(out, return_type="loss").backward()
    assert model.embed.W_E.grad is not None


def test_a_chat_goes_through_the_template(model):
    question = [dict(role="user", content="w20 w21")]
    answered = [*question, dict(role="assistant", content="w22")]
    with pytest.raises(ValueError, match="chat template"):
        model(question)
    model.tokenizer.chat_template = CHAT_TEMPLATE
    assert model.to_tokens(question).tolist() == [[1, 10, 20, 21, 12, 11]]
    assert model.to_tokens(answered).tolist() == [[1, 10, 20, 21, 12, 11, 22, 12]]
    assert model.to_tokens([question, answered], padding_side="left").tolist()[0] == [3, 3, 1, 10, 20, 21, 12, 11]
    assert model.to_str_tokens(question) == ["w01", "w10", "w20", "w21", "w12", "w11"]
    torch.testing.assert_close(model(question), model(model.to_tokens(question)))
    out = model.generate(question, return_type="tokens", **GREEDY)
    assert torch.equal(out, model.generate(model.to_tokens(question), **GREEDY))
    assert model.generate(question, **GREEDY) == model.to_string(out[0, 1:])
    with pytest.raises(TypeError, match="role"):
        model(["w01", dict(role="user", content="w02")])


@pytest.mark.parametrize(
    "bad, message",
    [
        (dict(return_type="strings"), "'input', 'str', 'tokens', 'embeds', not 'strings'"),
        (dict(stop_at_eos=True), "pass eos_token_id="),
        (dict(stop_at_eos=True, eos_token_id=[]), "not an empty list"),
        (dict(top_k=0), "top_k is at least 1"),
        (dict(top_p=0.0), "top_p is in"),
        (dict(temperature=-1.0), "temperature is 0"),
        (dict(max_new_tokens=-1), "max_new_tokens is at least 0"),
        (dict(return_type="str"), "no tokenizer"),
    ],
    ids=str,
)
def test_bad_arguments_are_clear_errors(bad, message):
    ours = HookedTransformer(GPT2_LIKE)
    with pytest.raises((ValueError, AssertionError), match=message):
        ours.generate(TOKENS, **GREEDY | bad)
    with pytest.raises((ValueError, AssertionError), match=message):
        ours.generate_stream(TOKENS, **GREEDY | bad)


def test_what_only_others_understand_is_ignored_with_a_warning():
    ours = HookedTransformer(GPT2_LIKE)
    with pytest.warns(UserWarning, match="'num_beams'"):
        ours.generate(TOKENS, num_beams=3, **GREEDY)
    with pytest.raises(ValueError, match=r"\[batch, pos, 16\], not \[1, 2, 3\]"):
        ours.generate(torch.zeros(1, 2, 3), **GREEDY)


def test_half_a_character_waits_for_its_other_half():
    class Bytes:
        def batch_decode(self, rows, **_):
            return [bytes(row).decode(errors="replace") for row in rows]

    told = generation._Told(Bytes())
    tokens = torch.tensor([list("né!".encode())])
    parts = [told.what_is_new(tokens[:, :i]) for i in (1, 2, 3, 4)]
    assert parts == ["n", "", "é", "!"]
