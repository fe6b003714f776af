"""What each variable of the environment may hold.

All raise SettingsError where a value cannot work.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import urlsplit

HOST = "127.0.0.1"
LOOPBACK_NAMES = (HOST, "localhost")


class SettingsError(ValueError):
    """A setting that cannot work; the text says which variable, what came and what works."""


def read_port(variable: str, text: str) -> int:
    """A whole number."""
    try:
        return int(text)
    except ValueError:
        raise SettingsError(
            f"{variable}={text!r} is not a port. What works: a whole number from 1024 to 65535."
        ) from None


def read_cluster(text: str) -> str:
    """Another Ray's http address, as it is; empty for none."""
    if not text:
        return text
    address = urlsplit(text)
    if address.scheme not in ("http", "https") or not address.hostname or address.username:
        # The text is left out: it may hold a password.
        raise SettingsError(
            f"DIPTYCH_RAY_ADDRESS is no address of a Ray that trains (it begins with {address.scheme or 'no scheme'!r}). "
            "What works: the http address of its dashboard, as http://head:8265, with its token in the file that "
            "DIPTYCH_RAY_TOKEN_PATH names; unset trains on the Ray of `diptych up`."
        )
    return text


def read_token(text: str) -> Path | None:
    """The file of another Ray's token, that is there; None for none."""
    file = Path(text).expanduser().absolute() if text else None
    if file is not None and not file.is_file():
        raise SettingsError(
            f"DIPTYCH_RAY_TOKEN_PATH={text!r} is no file. What works: the file with the token that the Ray of "
            "DIPTYCH_RAY_ADDRESS was started with; unset makes one for the Ray of `diptych up`."
        )
    return file


def read_mirror(text: str) -> str:
    """An address as it is; a folder as an absolute path, for workers start elsewhere."""
    scheme, separator, rest = text.partition("://")
    # It stands in job.json and in warnings; so the text of this error leaves it out too.
    user, at, _ = rest.partition("/")[0].rpartition("@")  # abfs://container@account has no secret
    if (at and ":" in user) or (separator and "?" in rest):
        raise SettingsError(
            "DIPTYCH_CHECKPOINTS holds a password or key, which would be written down beside each run. What works: the "
            "address alone, as s3://bucket/prefix, and the keys where the store's own client looks for them "
            "(AWS_ACCESS_KEY_ID, ~/.aws/credentials)."
        )
    if not text or (separator and scheme.replace("+", "").isalnum()):
        return text
    folder = Path(text).expanduser().absolute()
    if separator or (folder.exists() and not folder.is_dir()):
        raise SettingsError(
            f"DIPTYCH_CHECKPOINTS={text!r} is no place for checkpoints. What works: a folder, or an address as "
            "s3://bucket/prefix; unset copies them nowhere."
        )
    return str(folder)


def check_port(variable: str, port: int) -> None:
    """1024 to 65535."""
    if not 1024 <= port <= 65535:
        raise SettingsError(
            f"{variable}={port} is out of range. What works: 1024 to 65535 (below needs root)."
        )


def check_distinct(ports: Mapping[str, int]) -> None:
    """No port for two services."""
    for variable, port in ports.items():
        others = [v for v, p in ports.items() if p == port and v != variable]
        if others:
            raise SettingsError(
                f"{variable} and {others[0]} are both {port}. Give each service a port of its own."
            )


def check_host(host: str) -> None:
    """This machine alone."""
    # No service of the local stack asks who is calling, but Ray (by token). A browser on the same
    # machine can then use Prefect's form with no password; any other machine must stay out.
    if host not in LOOPBACK_NAMES:
        raise SettingsError(
            f"DIPTYCH_HOST={host!r} would open servers without a login to the network. "
            f"What works: {HOST}, or leave it unset. From another machine use an SSH tunnel: "
            "ssh -L 4200:127.0.0.1:4200 -L 5000:127.0.0.1:5000 this-machine."
        )


def check_home(home: Path) -> None:
    """A folder, or a free path, that fits into a database's address."""
    if any(character in str(home) for character in "?#%\n\x00"):  # they end or change an SQLite URL
        raise SettingsError(
            f"DIPTYCH_HOME={str(home)!r} holds one of ? # % or a line break, which a database "
            "address cannot carry. Choose a folder without them."
        )
    if home.exists() and not home.is_dir():
        raise SettingsError(
            f"DIPTYCH_HOME={home} is a file. What works: a folder, or a path that is free."
        )


def check_ledger(address: str) -> None:
    """SQLite or PostgreSQL; empty for a file in the home."""
    if address and not address.startswith(("sqlite:///", "postgresql")):
        raise SettingsError(
            "DIPTYCH_LEDGER_URL names no known database "
            f"({address.split(':', maxsplit=1)[0]!r}). What works: "
            "sqlite:////absolute/path.db or postgresql+psycopg://…; unset means SQLite in the home."
        )
