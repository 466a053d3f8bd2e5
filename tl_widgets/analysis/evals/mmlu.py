"""MMLU: multiple-choice questions on 57 subjects (https://arxiv.org/abs/2009.03300)."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import torch

from tl_widgets.environment import library
from tl_widgets.errors import BadInput, unknown

_HUB_ID = "cais/mmlu"
_LETTERS = "ABCD"
MMLU_SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "astronomy",
    "business_ethics",
    "clinical_knowledge",
    "college_biology",
    "college_chemistry",
    "college_computer_science",
    "college_mathematics",
    "college_medicine",
    "college_physics",
    "computer_security",
    "conceptual_physics",
    "econometrics",
    "electrical_engineering",
    "elementary_mathematics",
    "formal_logic",
    "global_facts",
    "high_school_biology",
    "high_school_chemistry",
    "high_school_computer_science",
    "high_school_european_history",
    "high_school_geography",
    "high_school_government_and_politics",
    "high_school_macroeconomics",
    "high_school_mathematics",
    "high_school_microeconomics",
    "high_school_physics",
    "high_school_psychology",
    "high_school_statistics",
    "high_school_us_history",
    "high_school_world_history",
    "human_aging",
    "human_sexuality",
    "international_law",
    "jurisprudence",
    "logical_fallacies",
    "machine_learning",
    "management",
    "marketing",
    "medical_genetics",
    "miscellaneous",
    "moral_disputes",
    "moral_scenarios",
    "nutrition",
    "philosophy",
    "prehistory",
    "professional_accounting",
    "professional_law",
    "professional_medicine",
    "professional_psychology",
    "public_relations",
    "security_studies",
    "sociology",
    "us_foreign_policy",
    "virology",
    "world_religions",
)


def make_mmlu_data_loader(
    subjects: str | list[str] | None = None, split: str = "test", num_samples: int | None = None
) -> list[dict[str, Any]]:
    """Load questions, each with its four choices.

    Parameters
    ----------
    subjects
        One of `MMLU_SUBJECTS` or several; None is all.
    split
        ``"test"``, ``"validation"`` or ``"dev"``.
    num_samples
        At most so many of each subject; None is all.

    Returns
    -------
    list
        ``{"question": ..., "choices": [...], "answer": 0 to 3, "subject": ...}``.
    """
    wanted = MMLU_SUBJECTS if subjects is None else (subjects,) if isinstance(subjects, str) else subjects
    for subject in wanted:
        if subject not in MMLU_SUBJECTS:
            raise unknown("subject", subject, MMLU_SUBJECTS)
    if num_samples is not None and num_samples < 1:
        raise BadInput(f"num_samples is at least 1, or None for all; not {num_samples}.")
    datasets = library("datasets", "make_mmlu_data_loader")
    questions = []
    for subject in wanted:
        data = datasets.load_dataset(_HUB_ID, subject, split=split)
        n_questions = len(data) if num_samples is None else min(num_samples, len(data))
        questions += [
            {name: data[i][name] for name in ("question", "choices", "answer")} | {"subject": subject}
            for i in range(n_questions)
        ]
    print(f"Loaded {len(questions)} MMLU examples from {len(wanted)} subject(s)")
    return questions


@torch.no_grad()
def mmlu_eval(
    model: Any,
    tokenizer: Any = None,
    subjects: str | list[str] | None = None,
    split: str = "test",
    num_samples: int | None = None,
) -> dict[str, Any]:
    """How often the likeliest of the four letters is the right one, without examples beforehand.

    Parameters
    ----------
    tokenizer
        None is the model's own.
    subjects, split, num_samples
        See `make_mmlu_data_loader`.

    Returns
    -------
    dict
        ``"accuracy"`` (chance is 0.25), ``"num_correct"``, ``"num_total"``, ``"subject_scores"`` (accuracy by subject).
    """
    tokenizer = model.tokenizer if tokenizer is None else tokenizer
    if tokenizer is None:
        raise BadInput("This model has no tokenizer to read questions with: pass one.")
    letters = [tokenizer.encode(f" {letter}", add_special_tokens=False)[-1] for letter in _LETTERS]
    hits: dict[str, list[bool]] = defaultdict(list)
    for item in make_mmlu_data_loader(subjects, split, num_samples):
        tokens = tokenizer.encode(_prompt(item["question"], item["choices"]), add_special_tokens=False)
        bos = tokenizer.bos_token_id
        if model.cfg.default_prepend_bos and bos is not None and tokens[:1] != [bos]:
            tokens = [bos, *tokens]
        logits = model(torch.tensor([tokens]))[0, -1]
        hits[item["subject"]].append(int(logits[letters].argmax()) == item["answer"])
    n_correct, n_total = sum(map(sum, hits.values())), sum(map(len, hits.values()))
    return {
        "accuracy": n_correct / n_total,
        "num_correct": n_correct,
        "num_total": n_total,
        "subject_scores": {subject: sum(right) / len(right) for subject, right in hits.items()},
    }


def _prompt(question: str, choices: list[str]) -> str:
    listed = [f"{letter}. {choice}" for letter, choice in zip(_LETTERS, choices, strict=True)]
    return "\n".join([f"Question: {question}", "Choices:", *listed, "Answer:"])
