"""``toy-1l-mlp``: one layer that reads sentences of a small grammar.

What comes next is decided by kinds of words (animals sleep, plums ripen), by number (``the dogs near the house
sleep``), by sums (``two and three make five``) and by the mixing of colours: attention fetches, and neurons decide.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tl_widgets.toys.recipe import Lesson, Toy

NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
COLOURS = ["red", "yellow", "blue", "green", "orange", "purple", "pink", "white", "black", "grey", "brown"]
MIXED = {
    ("red", "yellow"): "orange",
    ("red", "blue"): "purple",
    ("blue", "yellow"): "green",
    ("red", "white"): "pink",
    ("black", "white"): "grey",
    ("green", "red"): "brown",
}
NAMES = ["anna", "emma", "john", "mary", "paul", "peter", "sara", "tom"]
LIKES = ["buys", "draws", "likes", "sees"]
PLACES = ["bridge", "forest", "garden", "hill", "house", "lake", "market", "river", "school", "tower"]
# Nouns and what they do, singular and plural.
ANIMALS = "bear/bears bird/birds cat/cats cow/cows dog/dogs duck/ducks fox/foxes frog/frogs goat/goats horse/horses \
lion/lions mouse/mice pig/pigs wolf/wolves"
FRUITS = "apple/apples berry/berries cherry/cherries grape/grapes lemon/lemons melon/melons peach/peaches pear/pears \
plum/plums"
VEHICLES = "bike/bikes boat/boats bus/buses car/cars plane/planes ship/ships train/trains truck/trucks van/vans"
LIVES = "drinks/drink eats/eat hides/hide jumps/jump plays/play sleeps/sleep"
GROWS = "falls/fall grows/grow ripens/ripen rots/rot"
MOVES = "arrives/arrive leaves/leave stops/stop turns/turn"


def _forms(pairs: str) -> list[tuple[str, str]]:
    return [(one, many) for one, many in (pair.split("/") for pair in pairs.split())]


SUBJECTS = [(_forms(nouns), _forms(verbs)) for nouns, verbs in ((ANIMALS, LIVES), (FRUITS, GROWS), (VEHICLES, MOVES))]
CATEGORIES: dict[str, list[str]] = {
    "number": NUMBERS,
    "colour": COLOURS,
    "name": NAMES,
    "place": PLACES,
    **{
        kind: [word for forms in _forms(pairs) for word in forms]
        for kind, pairs in (("animal", ANIMALS), ("fruit", FRUITS), ("vehicle", VEHICLES))
    },
    "what animals do": [word for forms in _forms(LIVES) for word in forms],
    "what fruits do": [word for forms in _forms(GROWS) for word in forms],
    "what vehicles do": [word for forms in _forms(MOVES) for word in forms],
    "what people do": LIKES,
}
WORDS = [*sorted({word for words in CATEGORIES.values() for word in words}), "a", "and", "make", "near", "the", "."]


def sentences(tokenizer: Any, n_rows: int, n_pos: int, seed: int = 0) -> Tensor:
    """BOS, then random sentences one after the other, the last one cut off.

    Parameters
    ----------
    tokenizer
        Of `word_tokenizer`.
    n_rows, n_pos
        The shape of what is returned.

    Returns
    -------
    Tensor
        Tokens ``[n_rows, n_pos]``.

    Examples
    --------
    >>> from tl_widgets.toys.words import word_tokenizer
    >>> tokenizer = word_tokenizer(WORDS)
    >>> print(tokenizer.decode(sentences(tokenizer, n_rows=1, n_pos=30)[0]))
    <bos> ...
    """
    draw = random.Random(seed)
    ids = {word: tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in WORDS}
    rows = []
    for _ in range(n_rows):
        row = [tokenizer.bos_token_id]
        while len(row) < n_pos:
            row += [ids[word] for word in draw.choices(*KINDS)[0](draw)]
        rows.append(row[:n_pos])
    return torch.tensor(rows)


def _noun_phrase(draw: random.Random, nouns: list[tuple[str, str]], number: int) -> list[str]:
    """``number`` 0 is singular, 1 plural, as in the pairs."""
    first = draw.choice(NUMBERS[1:] + ["the"] * 4) if number else draw.choice(["one", "the", "a"])
    return [first, *draw.sample(COLOURS, draw.randrange(2)), draw.choice(nouns)[number]]


def _agreement(draw: random.Random) -> list[str]:
    """Draw ``the red dogs near the house sleep .``, or the like: the verb goes by its subject's kind and number."""
    nouns, verbs = draw.choice(SUBJECTS)
    number = draw.randrange(2)
    where = ["near", "the", draw.choice(PLACES)] if draw.random() < 0.4 else []
    return [*_noun_phrase(draw, nouns, number), *where, draw.choice(verbs)[number], "."]


def _liking(draw: random.Random) -> list[str]:
    """Draw ``mary sees two green apples .``, or the like."""
    nouns, _ = draw.choice(SUBJECTS)
    return [draw.choice(NAMES), draw.choice(LIKES), *_noun_phrase(draw, nouns, draw.randrange(2)), "."]


def _sum(draw: random.Random) -> list[str]:
    """Draw ``two and three make five .``, or the like."""
    total = draw.randrange(2, len(NUMBERS) + 1)
    first = draw.randrange(1, total)
    return [NUMBERS[first - 1], "and", NUMBERS[total - first - 1], "make", NUMBERS[total - 1], "."]


def _mixture(draw: random.Random) -> list[str]:
    """Draw ``red and yellow make orange .``, or the like."""
    parts, whole = draw.choice(list(MIXED.items()))
    first, second = draw.sample(parts, 2)
    return [first, "and", second, "make", whole, "."]


KINDS: tuple[list[Callable[[random.Random], list[str]]], list[int]] = (
    [_agreement, _liking, _sum, _mixture],
    [4, 2, 2, 1],
)

TOY = Toy(
    words=WORDS,
    shape=dict(n_layers=1, d_model=48, n_heads=4, d_head=16, d_mlp=192, n_ctx=32, act_fn="relu"),
    lessons=(
        # Strong decay leaves few neurons to each kind of word, and those fire for little else.
        Lesson(sentences, 64 * 500, dict(num_epochs=3, lr=3e-3, weight_decay=1.0, warmup_steps=50)),
        Lesson(sentences, 64 * 500, dict(num_epochs=1, lr=3e-4, weight_decay=1.0)),
    ),
)
