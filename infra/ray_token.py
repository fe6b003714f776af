"""The token of the Ray of ``diptych up``: a file that its user alone can read."""

from __future__ import annotations

import os
import secrets
import stat
import tempfile
from pathlib import Path

from infra.variables import SettingsError


def make_token(path: Path) -> None:
    """A random token that only its user can read; one that is there is kept, its mode mended."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".token.")  # 0600 from the start
    try:
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(32))
        os.link(temporary, path)  # whole or absent, and never over one that is there
    except FileExistsError:
        _check_token(path)
    finally:
        Path(temporary).unlink()


def _check_token(path: Path) -> None:
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid() or not found.st_size:
        raise SettingsError(
            f"{path} should be Ray's token, a file of yours; it is empty, a link or another "
            "user's. Remove it: the next start makes a new one."
        )
    path.chmod(0o600)
