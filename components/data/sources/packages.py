"""What sources that read packages of others share: the packages have to be here, and to be the pinned ones."""

from __future__ import annotations


class PackagesMissing(FileNotFoundError):
    """A package that is not there and cannot be got, or is not the one that was pinned."""
