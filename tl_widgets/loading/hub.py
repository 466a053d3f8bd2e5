"""The Hugging Face hub's files on this machine: fetching one, and deleting all."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_PICKLED = (".pth", ".pt", ".bin")


def download_file_from_hf(
    repo_name: str,
    file_name: str,
    subfolder: str = ".",
    cache_dir: str | None = None,
    force_is_torch: bool = False,
    **kwargs: Any,
) -> Any:
    """Fetch one file from the hub (once), and read it if it is JSON or tensors.

    Parameters
    ----------
    repo_name, file_name, subfolder
        The repository's hub id, and a file in one of its folders.
    cache_dir
        None is the hub's own.
    force_is_torch
        Read tensors whatever the file is called.
    kwargs
        Go on to ``torch.load``. Only tensors and plain containers are unpickled unless ``weights_only=False`` says
        otherwise, which lets the file run code.

    Returns
    -------
    Any
        What the file holds, tensors on the CPU; of another kind of file the path.
    """
    from huggingface_hub import hf_hub_download

    # The hub takes "." for a folder of that name.
    folder = None if subfolder in (".", "") else subfolder
    path = Path(hf_hub_download(repo_name, filename=file_name, subfolder=folder, cache_dir=cache_dir))
    if force_is_torch or path.suffix in _PICKLED:
        import torch

        options: dict[str, Any] = {"map_location": "cpu", "weights_only": True} | kwargs
        return torch.load(path, **options)
    if path.suffix == ".json":
        return json.loads(path.read_text(encoding="utf-8"))
    return str(path)


def clear_huggingface_cache(ask: bool = True) -> None:
    """Delete every model and data set that the hub's client keeps on this machine; other files there stay.

    Parameters
    ----------
    ask
        Say what goes and wait for a yes; where nobody can answer nothing is deleted.
    """
    from huggingface_hub import scan_cache_dir
    from huggingface_hub.constants import HF_HUB_CACHE
    from huggingface_hub.errors import CacheNotFound

    try:
        kept = scan_cache_dir()
    except CacheNotFound:
        print(f"There is no hub cache at {HF_HUB_CACHE}.")
        return
    what = f"{len(kept.repos)} repositories ({kept.size_on_disk_str}) from {HF_HUB_CACHE}"
    if not kept.repos or (ask and not _is_yes(f"Delete {what}? [y/N] ")):
        print("Nothing is deleted.")
        return
    revisions = [revision.commit_hash for repo in kept.repos for revision in repo.revisions]
    kept.delete_revisions(*revisions).execute()
    print(f"Deleted {what}.")


def _is_yes(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:
        return False
