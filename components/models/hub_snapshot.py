"""A model of the Hub as a local folder: only one that an experiment names, and of it only JSON and safetensors.

It is named `OWNER/MODEL`, or `OWNER/MODEL@COMMIT`, which is the same files for ever; a branch or a tag may move.
"""

from __future__ import annotations

import re
from pathlib import Path

from components.config import ConfigError

WANTED = ("*.json", "*.safetensors")
"""No code and no pickle."""

_COMMIT = re.compile(r"[0-9a-f]{40}")


def repository(name: str) -> tuple[str, str | None]:
    """The model, and the commit if one is named. Raises ConfigError for a revision that is no commit's whole hash.

    >>> repository("gpt2")
    ('gpt2', None)
    """
    model, asked, commit = name.partition("@")
    if not model or (asked and not _COMMIT.fullmatch(commit)):
        raise ConfigError(
            f"hub:{name[:120]} names no commit of a model; write hub:OWNER/MODEL@ and the 40 hex digits that the Hub shows "
            "under Files and versions, or leave the revision out."
        )
    return model, commit or None


def snapshot(name: str, *, fetch: bool = True) -> Path:
    """The folder of the model `name`, brought into the Hub's own cache if it is not there.

    fetch: whether it may be; without, and with HF_HUB_OFFLINE=1, which is how our services run, the cache is all there
    is. Raises ConfigError where it cannot be had.
    """
    from huggingface_hub import snapshot_download

    model, commit = repository(name)
    try:
        return Path(
            snapshot_download(
                model, revision=commit, allow_patterns=list(WANTED), local_files_only=not fetch
            )
        )
    except Exception as error:  # what it raises for no network, no such name and no leave are classes of three packages
        at = f" --revision {commit}" if commit else ""
        raise ConfigError(
            f"hub:{name} cannot be had ({type(error).__name__}: {error}). Bring it into the cache once with "
            f"`HF_HUB_OFFLINE=0 hf download {model}{at}`, or name a local folder of it as folder:PATH."
        ) from error
