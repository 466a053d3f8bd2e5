"""Where weights come from: a model object, a directory, a GGUF file, a hub. Each gives a config and named tensors."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from tl_widgets.errors import BadInput, BadType, CannotLoad
from tl_widgets.loading import gguf, names
from tl_widgets.loading.families import saved

# What a hub download needs; pickled weights are not among it.
_HUB_FILES = ["*.json", "*.safetensors", "tokenizer*", "*.model", "vocab*", "merges*", "*.jinja"]
_HUB_OPTIONS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies")


@dataclass(frozen=True)
class Source:
    """A model somewhere else.

    Attributes
    ----------
    name
        What to call it: the last part of its hub id, directory or file.
    config
        Its transformers config; for a model of ours, the dict that it was saved with.
    tensors
        Its weights by their names there; each is read when it is asked for.
    load_tokenizer
        Returns its tokenizer, or None where there is none.
    architecture
        The transformers class that it was saved from, or ``"HookedTransformer"``.
    folder
        The directory that holds it, which transformers can load; None for a model in memory, or one of ours.
    """

    name: str
    config: Any
    tensors: Mapping[str, Tensor]
    load_tokenizer: Callable[[], Any]
    architecture: str | None
    folder: Path | None = None


def find_source(model_name: str | os.PathLike[str], hf_model: Any = None, **hub_options: Any) -> Source:
    """Find a model by alias, hub id, local directory, GGUF file or a toy's name; `hf_model` is used as it is.

    Raises
    ------
    CannotLoad
        Where there is no such model; says what was tried and the nearest known names.
    """
    if hub_options.get("trust_remote_code"):
        raise BadInput("trust_remote_code would run the repository's own code: tl_widgets never does.")
    refused = [option for option in hub_options if option not in _HUB_OPTIONS]
    if refused:
        raise BadInput(
            f"from_pretrained does not know {', '.join(refused)}; for hubs there is {', '.join(_HUB_OPTIONS)}."
        )
    if not isinstance(model_name, (str, os.PathLike)):
        raise BadType(
            f"model_name is a name or a path, not {type(model_name).__name__}. A transformers model in memory goes in "
            "hf_model=."
        )
    model_name = os.fspath(model_name)
    if hf_model is not None:
        if not hasattr(hf_model, "config") or not hasattr(hf_model, "state_dict"):
            raise BadType(f"hf_model is a transformers model, not {hf_model!r}; a name goes in model_name.")
        return from_object(model_name, hf_model)
    path = Path(model_name).expanduser()
    if model_name and path.is_file() and path.suffix == ".gguf":
        return from_gguf(path)
    if model_name and path.is_dir():
        return from_directory(path)
    if path.suffix == ".gguf" or model_name.startswith((".", "/", "~")) or model_name.count("/") > 1:
        raise CannotLoad(f"There is no file or directory {model_name!r}.")
    if model_name.lower() in names.TOYS:
        return from_directory(names.TOYS[model_name.lower()])
    hub_id = names.hub_id_of(model_name)
    packaged = names.packaged_gguf(hub_id) if hub_id else None
    if packaged:
        return from_gguf(packaged, name=_last_part(hub_id or ""))
    if hub_id is None and "/" not in model_name:
        close = " or ".join(map(repr, names.similar_names(model_name)))
        advice = (
            f"Did you mean {close}?" if close else f"There is {', '.join(map(repr, list(names.MODELS)[:8]))} and more."
        )
        raise CannotLoad(
            f"No model is called {model_name!r}. {advice} A hub id (owner/name), a local directory or a GGUF file "
            "will do as well."
        )
    return from_hub(hub_id or model_name, **hub_options)


def from_object(model_name: str, hf_model: Any) -> Source:
    """Return a transformers model in memory as a source; asks nothing of a network."""
    return Source(_last_part(model_name), hf_model.config, hf_model.state_dict(), lambda: None, type(hf_model).__name__)


def from_hub(hub_id: str, **options: Any) -> Source:
    """Download (once) from the Hugging Face hub; ``HF_TOKEN`` in the environment opens gated models."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    try:
        folder = snapshot_download(hub_id, allow_patterns=_HUB_FILES, **options)
    except GatedRepoError as error:
        raise CannotLoad(f"{hub_id} is gated: accept its terms on the hub and set HF_TOKEN.") from error
    except RepositoryNotFoundError as error:
        close = " or ".join(map(repr, names.similar_names(hub_id)))
        raise CannotLoad(
            f"The hub has no model {hub_id!r}"
            + (f"; did you mean {close}?" if close else ".")
            + " A private one needs HF_TOKEN."
        ) from error
    except HFValidationError as error:
        raise CannotLoad(f"{hub_id!r} is no hub id: one reads owner/name.") from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise CannotLoad(
            f"{hub_id} is not on this machine and could not be downloaded ({type(error).__name__}). Check the "
            f"connection and the name, or pass a local directory or a GGUF file.{names.how_to_get(hub_id)}"
        ) from error
    return from_directory(Path(folder), name=_last_part(hub_id))


def from_gguf(path: Path, name: str | None = None) -> Source:
    """Return a GGUF file as a source; it is dequantised once and kept as safetensors in the user's cache directory."""
    return from_directory(gguf.as_directory(path), name=name or path.stem)


def from_directory(folder: Path, name: str | None = None) -> Source:
    """Return a directory with ``config.json`` and safetensors (in one file or several), or a single GGUF file."""
    ggufs = sorted(folder.glob("*.gguf"))
    if len(ggufs) == 1 and not list(folder.glob("*.safetensors")):
        return from_gguf(ggufs[0], name)
    if not (folder / "config.json").is_file():
        raise CannotLoad(
            f"{folder} has no config.json: it holds no model of transformers, and none that save_pretrained left."
        )
    try:
        config, architecture, theirs = _config(folder)
    except (ValueError, KeyError, OSError) as error:
        raise CannotLoad(f"The config.json of {folder} could not be read: {error}") from error
    tensors = SafetensorsFiles(folder)
    return Source(name or folder.name, config, tensors, lambda: _tokenizer(folder), architecture, theirs)


def _config(folder: Path) -> tuple[Any, str | None, Path | None]:
    """Return a directory's config, the architecture that it names, and the directory, if transformers can load it."""
    written = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if written.get("architectures") == [saved.ARCHITECTURE]:
        return written, saved.ARCHITECTURE, None
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    return config, next(iter(config.architectures or []), None), folder


def _tokenizer(folder: Path) -> Any:
    if not any((folder / name).exists() for name in ("tokenizer.json", "tokenizer_config.json", "tokenizer.model")):
        return None
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)


class SafetensorsFiles(Mapping[str, Tensor]):
    """The tensors of a directory's safetensors files, each read from disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._file_of: dict[str, str] = {}
        index = folder / "model.safetensors.index.json"
        if index.is_file():
            self._file_of = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        else:
            for path in sorted(folder.glob("*.safetensors")):
                self._file_of |= dict.fromkeys(self._names_in(path.name), path.name)
        if not self._file_of:
            pickled = [path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern)]
            advice = (
                f" {pickled[0]} is a pickle, which can run code when it is read; convert it to safetensors (in "
                "transformers: from_pretrained, then save_pretrained), or load it yourself and pass hf_model=."
                if pickled
                else ""
            )
            raise CannotLoad(f"{folder} has no safetensors file.{advice}")

    def _open(self, file: str) -> Any:
        from safetensors import SafetensorError, safe_open

        try:
            return safe_open(self.folder / file, framework="pt")
        except (SafetensorError, OSError) as error:
            raise CannotLoad(f"{self.folder / file} is not a whole safetensors file: {error}") from error

    def _names_in(self, file: str) -> list[str]:
        with self._open(file) as tensors:
            return tensors.keys()

    def __getitem__(self, name: str) -> Tensor:
        # Opened anew each time: the pages of a file that stays open stay in memory, beside the model they fill.
        with self._open(self._file_of[name]) as tensors:
            return tensors.get_tensor(name)

    def __contains__(self, name: object) -> bool:
        return name in self._file_of

    def __iter__(self) -> Iterator[str]:
        return iter(self._file_of)

    def __len__(self) -> int:
        return len(self._file_of)


def _last_part(name: str) -> str:
    return Path(name).name
