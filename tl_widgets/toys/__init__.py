"""The toy models of this package, and how they are trained: ``python -m tl_widgets.toys``.

`HookedTransformer.from_pretrained` loads them by name from `tl_widgets.loading`, where their weights lie. Here is what
they were shown, for experiments with them and for training them anew.
"""

from tl_widgets.toys import grammar, induction
from tl_widgets.toys.grammar import sentences
from tl_widgets.toys.induction import repeated_words
from tl_widgets.toys.recipe import Lesson, Toy

RECIPES: dict[str, Toy] = {"toy-induction": induction.TOY, "toy-1l-mlp": grammar.TOY}

__all__ = ["RECIPES", "Lesson", "Toy", "repeated_words", "sentences"]
