"""A model of the Hub as a local folder: only one that an experiment names, and of it only JSON and safetensors."""

from __future__ import annotations

from pathlib import Path

from components.config import ConfigError

WANTED = ("*.json", "*.safetensors")
"""No code and no pickle."""


def snapshot(name: str, *, fetch: bool = True) -> Path:
    """The folder of the model `name`, brought into the Hub's own cache if it is not there.

    fetch: whether it may be; without, and with HF_HUB_OFFLINE=1, which is how our services run, the cache is all there
    is. Raises ConfigError where it cannot
    be had.
    """
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(name, allow_patterns=list(WANTED), local_files_only=not fetch)
        )
    except Exception as error:  # what it raises for no network, no such name and no leave are classes of three packages
        raise ConfigError(
            f"hub:{name} cannot be had ({type(error).__name__}: {error}). Bring it into the cache once with "
            f"`HF_HUB_OFFLINE=0 hf download {name}`, or name a local folder of it as folder:PATH."
        ) from error
