"""Indirect object identification: whether a model names the person who has not just been named again."""

from __future__ import annotations

import random
import re
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader, Dataset

from tl_widgets.errors import BadInput

_TEMPLATES = (
    "When [A] and [B] got to the [LOCATION], [B] handed the [OBJECT] to [A]",
    "After [B] and [A] met at the [LOCATION], [B] passed the [OBJECT] to [A]",
    "[A] and [B] were at the [LOCATION] together, so [B] gave the [OBJECT] to [A]",
    "While [B] and [A] waited by the [LOCATION], [B] showed the [OBJECT] to [A]",
)
_NAMES = ("Mary", "John", "Anna", "Peter", "Laura", "Paul", "Emma", "David")
_NOUNS = {
    "LOCATION": ("station", "library", "garden", "office", "museum"),
    "OBJECT": ("book", "ticket", "key", "letter", "camera"),
}


class IOIDataset(Dataset):
    """Sentences in which two people meet and one gives something to the other (https://arxiv.org/abs/2211.00593).

    Parameters
    ----------
    tokenizer
        A transformers tokenizer.
    templates
        Sentences with ``[A]`` (the indirect object, last), ``[B]`` (the subject, named twice) and placeholders of
        `nouns`; None for any of the three is the default.
    names
        At least two.
    nouns
        ``{placeholder: words}``.
    num_samples
        How many sentences; with `symmetric` an even number.
    symmetric
        Each sentence comes twice, the second time with the names exchanged.
    prepend_bos
        Start each with the tokenizer's BOS.
    seed
        Makes the sentences repeatable without touching the global generator; None draws from that.

    Examples
    --------
    >>> data = IOIDataset(
    ...     None, ["[A] and [B] ate; [B] gave [FOOD] to [A]"], ["Ann", "Tom"], {"FOOD": ["figs"]}, num_samples=1, seed=2
    ... )
    >>> data.samples
    [{'text': 'Ann and Tom ate; Tom gave figs to Ann', 'IO': ' Ann', 'S': ' Tom'}]
    """

    def __init__(
        self,
        tokenizer: Any,
        templates: list[str] | None = None,
        names: list[str] | None = None,
        nouns: dict[str, list[str]] | None = None,
        num_samples: int = 1000,
        symmetric: bool = False,
        prepend_bos: bool = True,
        seed: int | None = None,
    ) -> None:
        self.tokenizer = tokenizer
        self.prepend_bos = prepend_bos
        self.templates = self.get_default_templates() if templates is None else templates
        self.names = self.get_default_names() if names is None else names
        self.nouns = self.get_default_nouns() if nouns is None else nouns
        if len(set(self.names)) < 2 or not self.templates or num_samples < 1:
            raise BadInput(
                "Sentences need a template, two different names and num_samples of at least 1; there are "
                f"{len(self.templates)} templates, {len(set(self.names))} names, num_samples={num_samples}."
            )
        self._random: Any = random if seed is None else random.Random(seed)
        self.samples: list[dict[str, str]] = []
        while len(self.samples) < num_samples:
            self.samples += self.get_sample(symmetric)
        del self.samples[num_samples:]

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, idx: int) -> dict[str, torch.Tensor]:
        """``{"prompt": [pos], "IO": [tokens], "S": [tokens]}``, token ids."""
        sample = self.samples[idx]
        prompt, io, subject = (self._ids(sample[key]) for key in ("text", "IO", "S"))
        if self.prepend_bos:
            prompt = [self.tokenizer.bos_token_id, *prompt]
        return {"prompt": torch.tensor(prompt), "IO": torch.tensor(io), "S": torch.tensor(subject)}

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def get_sample(self, symmetric: bool = False) -> list[dict[str, str]]:
        """One sentence, or two with the names exchanged: its ``"text"``, and the names ``"IO"`` and ``"S"``."""
        template = self._random.choice(self.templates)
        for placeholder, words in self.nouns.items():
            template = template.replace(f"[{placeholder}]", self._random.choice(words))
        pair = self._random.sample(self.names, 2)
        return [_filled(template, *order) for order in ((pair, pair[::-1]) if symmetric else (pair,))]

    @staticmethod
    def get_default_names() -> list[str]:
        """First names, each one token in most vocabularies."""
        return list(_NAMES)

    @staticmethod
    def get_default_templates() -> list[str]:
        """Sentences to fill in."""
        return list(_TEMPLATES)

    @staticmethod
    def get_default_nouns() -> dict[str, list[str]]:
        """Words for each placeholder."""
        return {placeholder: list(words) for placeholder, words in _NOUNS.items()}


def _filled(template: str, io: str, subject: str) -> dict[str, str]:
    names = {"[A]": io, "[B]": subject}
    text = re.sub(r"\[[AB]\]", lambda match: names[match[0]], template)
    return {"text": text, "IO": f" {io}", "S": f" {subject}"}


@torch.no_grad()
def ioi_eval(
    model: Any,
    dataset: Any = None,
    batch_size: int = 8,
    num_samples: int = 1000,
    tokenizer: Any = None,
    symmetric: bool = False,
) -> dict[str, float]:
    """How clearly a model prefers the indirect object to the subject at the end of a sentence.

    Parameters
    ----------
    dataset
        Of items as `IOIDataset` has them: prompts that end with the name; None draws `num_samples` (see there for
        `symmetric`).
    tokenizer
        None is the model's own.

    Returns
    -------
    dict
        ``"Logit Difference"``, logit of the indirect object less that of the subject, at the first token in which the
        two differ, and ``"Accuracy"``, how often it is positive; both as means over sentences.
    """
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    if dataset is None:
        if tokenizer is None:
            raise BadInput("This model has no tokenizer to write sentences for: pass one, or a dataset.")
        dataset = IOIDataset(tokenizer, num_samples=num_samples, symmetric=symmetric)
    if not len(dataset):
        raise BadInput("The data set has no sentence.")
    differences = []
    for batch in DataLoader(dataset, batch_size=batch_size, collate_fn=list):
        # At the end, where a causal model's real tokens do not see it: any token will do.
        prompts = pad_sequence([item["prompt"] for item in batch], batch_first=True)
        lengths = torch.tensor([len(item["prompt"]) for item in batch])
        mask = (torch.arange(prompts.shape[1]) < lengths[:, None]).long()
        logits = model(prompts, attention_mask=mask)
        differences += [_difference(logits[i], item) for i, item in enumerate(batch)]
    return {
        "Logit Difference": sum(differences) / len(differences),
        "Accuracy": sum(difference > 0 for difference in differences) / len(differences),
    }


def _difference(logits: torch.Tensor, item: dict[str, torch.Tensor]) -> float:
    """Of one sentence, from its logits ``[pos, d_vocab]``."""
    io, subject = item["IO"].tolist(), item["S"].tolist()
    first = next((i for i, pair in enumerate(zip(io, subject, strict=False)) if pair[0] != pair[1]), None)
    if first is None:
        raise BadInput(f"The names of a sentence do not differ in any token: {io} and {subject}.")
    position = len(item["prompt"]) - len(io) + first - 1
    return (logits[position, io[first]] - logits[position, subject[first]]).item()
