"""Captions to measure with: COCO's where the optional package pycocoevalcap carries them, else made ones."""

from __future__ import annotations

import importlib.util
import json
import random
import shutil
import zipfile
from collections import defaultdict
from pathlib import Path

PACKAGE = "pycocoevalcap"
INSTALL = "pip install --no-deps pycocoevalcap==1.2"
SEED = 0


def package_folder() -> Path | None:
    """Where the package lies; nothing of it is imported."""
    spec = importlib.util.find_spec(PACKAGE)
    return Path(next(iter(spec.submodule_search_locations))) if spec else None


def unpack(folder: Path) -> str | None:
    """Copy the package's programmes to `folder`, where they may write; or why the peer cannot run."""
    package = package_folder()
    if package is None:
        return f"pycocoevalcap is not installed: {INSTALL}"
    if shutil.which("java") is None:
        return "no java on this machine"
    for name in ("bleu", "cider", "meteor", "rouge", "tokenizer"):
        shutil.copytree(package / name, folder / PACKAGE / name)
    (folder / PACKAGE / "__init__.py").touch()
    return None


def caption_set(images: int) -> tuple[str, list[str], list[list[str]]]:
    """Name, one candidate an image, some references an image; the same for the same number."""
    package = package_folder()
    if package is not None:
        return _coco(package / "spice" / "spice-1.0.jar", images)
    draw = random.Random(SEED)
    references = [[_made(draw) for _ in range(5)] for _ in range(images)]
    return "made captions", [_made(draw) for _ in range(images)], references


def coco_captions() -> list[str]:
    """Every different caption of COCO 2014. Raises FileNotFoundError without the package."""
    package = package_folder()
    if package is None:
        raise FileNotFoundError(f"COCO's captions come with a package that is not here: {INSTALL}")
    jar = package / "spice" / "spice-1.0.jar"
    several = [_annotations(jar, split) for split in ("train", "val")]
    return sorted({each["caption"] for annotations in several for each in annotations})


def _coco(jar: Path, images: int) -> tuple[str, list[str], list[list[str]]]:
    """Images of val2014 in the order of their numbers; candidates are drawn from train2014."""
    references: defaultdict[int, list[str]] = defaultdict(list)
    for each in _annotations(jar, "val"):
        references[each["image_id"]].append(_line(each["caption"]))
    chosen = sorted(references)[:images]
    draw = random.Random(SEED)
    train = [_line(each["caption"]) for each in _annotations(jar, "train")]
    return "COCO 2014", [draw.choice(train) for _ in chosen], [references[one] for one in chosen]


def _annotations(jar: Path, split: str) -> list[dict]:
    with zipfile.ZipFile(jar) as members:
        text = members.read(f"coco/annotations/captions_{split}2014.json")
    return json.loads(text)["annotations"]


def _line(caption: str) -> str:
    """The peer reads a line a caption, and breaks one at more characters than it says."""
    return " ".join(caption.split())


def _made(draw: random.Random) -> str:
    """Words as rare as words are (Zipf), and a full stop."""
    words = [f"{'bcdfgklmnprst'[n % 13]}{'aeiou'[n % 5]}{n}" for n in range(5000)]
    weights = [1 / (n + 1) for n in range(5000)]
    return " ".join(draw.choices(words, weights, k=draw.randint(7, 14))) + "."
