"""open_clip without torchvision, which it imports for image files and we do not need: names of that kind stand for nothing.

The peer is open_clip_torch 3.3.0, installed by `make bench` and by nothing else; timm, optional there, is kept out.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
import types
from collections.abc import Sequence
from typing import Any

INSTALL = "pip install --no-deps open_clip_torch==3.3.0 ftfy==6.3.1"


def absent() -> str | None:
    """Why the peer cannot run, or None."""
    missing = [name for name in ("open_clip", "ftfy") if importlib.util.find_spec(name) is None]
    return f"{' and '.join(missing)} not installed: {INSTALL}" if missing else None


def load() -> tuple[Any, Any]:
    """Its modules `open_clip.model` and `open_clip.loss`, as they are; nobody else meets the stand-in."""
    # First, since it remembers whether it saw torchvision.
    import transformers.models.clip.modeling_clip  # noqa: F401

    finder = _Nothing()
    stands_in = importlib.util.find_spec("torchvision") is None
    if stands_in:
        sys.meta_path.insert(0, finder)
    sys.modules["timm"] = None  # type: ignore[assignment]
    try:
        from open_clip import loss, model
    finally:
        del sys.modules["timm"]
        if stands_in:
            sys.meta_path.remove(finder)
            for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
                del sys.modules[name]
    return model, loss


class _Name(type):
    """Any name of a class that stands for nothing, as itself."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _Module(types.ModuleType):
    """Any name, as a class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Name(name, (), {})


class _Nothing(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds torchvision and all below it."""

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        pass
