"""A tokenizer of fifty words, ``w00`` to ``w49``, made on the spot."""

from __future__ import annotations

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %} {{ 'w10' if m.role == 'user' else 'w11' }} {{ m.content }} w12{% endfor %}"
    "{% if add_generation_prompt %} w11{% endif %}"
)


def fifty_words(**options: str) -> PreTrainedTokenizerFast:
    """``w01`` is BOS, ``w02`` EOS, ``w03`` padding, unless `options` say otherwise."""
    tokenizer = Tokenizer(models.WordLevel({f"w{i:02}": i for i in range(50)}, unk_token="w00"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = dict(unk_token="w00", bos_token="w01", eos_token="w02", pad_token="w03") | options
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
