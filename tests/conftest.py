"""What tests share: quiet systems, one thread, and a made data set small enough to write anew in a session."""

from __future__ import annotations

import os
import signal

# Before any import of those systems: nothing is sent anywhere, nothing runs that was not asked for.
os.environ.update(
    {
        "AWS_EC2_METADATA_DISABLED": "true",
        "DO_NOT_TRACK": "1",
        "DVC_NO_ANALYTICS": "1",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "OMP_NUM_THREADS": "1",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
    }
)

import itertools
import json
import subprocess
from collections.abc import Callable, Iterator
from functools import cache
from io import BytesIO
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn
from xdist.scheduler import LoadScopeScheduling

from components.atomic import sha256_file
from components.catalog import MODELS
from components.data.batches import Batches, load_split
from components.data.shards import read_manifest, write_shards
from components.data.text import Tokenizer
from components.metrics.meteor import compiling, resources
from components.records import Batch, BatchSpec, Box, Question, Row, Sample, Shards
from components.training.building import build, random_part, slots
from infra.ports import free_ports
from infra.settings import PORT_VARIABLES, Settings
from registry.tracking import Tracking

# A shell that starts the tests in the background has SIGINT ignored, and every child would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# A machine that stalls is no failure.
hypothesis.settings.register_profile("suite", deadline=None)
hypothesis.settings.load_profile("suite")

ROOT = Path(__file__).parents[1]
TINY_PX = 32
COLOURS = {"red": "#d02020", "green": "#20a030", "blue": "#2040d0", "yellow": "#e0c020"}
SHAPES = ("circle", "square", "triangle", "cross")


class ByServers(LoadScopeScheduling):
    """What several processes of tests share out (`make test`): files that start flows' servers are one's, Ray's too.

    Of the rest a file is. Servers are waited for more than they compute, and two that are killed and timed at once would
    not tell whose fault it is. A group of xdist's own cannot be named by marks under pytest 9.2.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return ("servers", "ray", file)[_turn(ROOT / file)]


def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> ByServers:
    """Which tests stay together."""
    return ByServers(config, log)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What cannot be divided begins at once; the rest is there for whoever is done first."""
    items.sort(key=lambda item: _turn(item.path))


@cache
def _turn(file: Path) -> int:
    if "pytest.mark.stack" not in file.read_text("utf-8"):
        return 2
    return 1 if "components" in file.relative_to(ROOT).parts else 0


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two cores are shared by all that runs beside a test."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """A command puts its settings into the process's environment: the next test, in any order, is not to inherit them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="session")
def tiny_samples() -> list[Sample]:
    """96 drawings of 16 coloured shapes, 32 px: train 56, val 14, test 14, val_concept 6, test_concept 6."""
    pairs = [(colour, shape) for colour in COLOURS for shape in SHAPES]
    return [_drawing(colour, shape, copy) for colour, shape in pairs for copy in range(6)]


@pytest.fixture(scope="session")
def tiny_shards(tiny_samples: list[Sample], tmp_path_factory: pytest.TempPathFactory) -> Shards:
    """`tiny_samples`, written; read only: a test that damages shards writes its own."""
    return write_shards(tiny_samples, tmp_path_factory.mktemp("shards") / "tiny")


@pytest.fixture(scope="session")
def tiny_tokenizer(tiny_samples: list[Sample]) -> Tokenizer:
    """307 entries, made of the training captions until each word is one token."""
    training = (sample for sample in tiny_samples if sample.split == "train")
    return Tokenizer.train((text for sample in training for text in sample.captions), 400)


@pytest.fixture(scope="session")
def batch_for(tiny_shards: Shards, tiny_tokenizer: Tokenizer) -> Callable[[BatchSpec, int], Batch]:
    """`batch_for(spec, 8)`: a training batch of that size, for a family with that spec."""

    def make(spec: BatchSpec, batch_size: int) -> Batch:
        images = load_split(tiny_shards, "train", spec.image_px)
        return Batches(images, spec, tiny_tokenizer, batch_size, seed=0).batch(0)

    return make


@pytest.fixture(scope="session")
def tiny_rows(tiny_shards: Shards) -> list[Row]:
    """The training rows of `tiny_samples`."""
    return [row for row in read_manifest(tiny_shards) if row.sample.split == "train"]


@pytest.fixture(scope="session")
def build_tiny(tiny_tokenizer: Tokenizer, tiny_rows: list[Row]) -> Callable[..., nn.Module]:
    """`build_tiny("clip", seed=0, **settings)`: the tiny preset of any family or stage, stand-ins in its slots."""

    def make(name: str, seed: int = 0, **settings: object) -> nn.Module:
        family = MODELS[name]
        config = family.Config(**{**family.Config.tiny().to_dict(), **settings})
        parts = {slot: random_part(slot, tiny_tokenizer) for slot in slots(family)}
        torch.manual_seed(seed)
        return build(name, config.fitted(tiny_rows, tiny_tokenizer), parts)

    return make


@pytest.fixture
def tiny_batch(batch_for: Callable[[BatchSpec, int], Batch]) -> Batch:
    """Eight training images of 32 px."""
    return batch_for(BatchSpec(image_px=TINY_PX, max_tokens=16), 8)


@pytest.fixture(scope="session")
def meteor_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache folder with compiled data of METEOR: all that the golden captions can touch, and no more."""
    golden = Path(__file__).parent / "components" / "metrics" / "golden"
    saved = json.loads((golden / "meteor_resources_subset.json").read_text("utf-8"))
    prefixes = ["Corp", "Dr", "J", "K", "Mr", "Mrs", "Ms", "Prof", "Sr", "St", "vs"]
    prefixes += ["No #NUMERIC_ONLY#"]
    words, pairs = saved["function_words"], [tuple(pair) for pair in saved["paraphrases"]]
    small = resources.from_parts(words, prefixes, saved["synsets"], pairs, "golden")
    cache = tmp_path_factory.mktemp("meteor")
    folder = cache / f"meteor-{resources._digest('meteor')}"
    folder.mkdir()
    written = {}
    for name, value in {**vars(small.lexicon), **vars(small.paraphrases)}.items():
        if isinstance(value, np.ndarray):
            np.save(folder / f"{name}.npy", value, allow_pickle=False)
            written[f"{name}.npy"] = sha256_file(folder / f"{name}.npy")
    marker = {
        "sha256": written,
        "words": small.paraphrases.words,
        "longest": small.paraphrases.longest,
        "prefixes": prefixes,
        "function_words": words,
    }
    (folder / compiling.MARKER).write_text(json.dumps(marker))
    return cache


@pytest.fixture(scope="session")
def settings_on_free_ports() -> Callable[..., Settings]:
    """`settings_on_free_ports(home, DIPTYCH_…="…")`: a home's settings; ports are free now, children import this checkout."""

    def make(home: Path, **variables: str) -> Settings:
        ports = map(str, free_ports(len(PORT_VARIABLES)))
        chosen = dict(zip(PORT_VARIABLES.values(), ports, strict=True))
        own = {"DIPTYCH_HOME": str(home), "PYTHONPATH": str(ROOT)}
        return Settings.read({**os.environ, **own, **chosen, **variables})

    return make


@pytest.fixture(scope="session")
def mlflow_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with MLflow's own SQLite store; making its tables takes seconds, so a session has one."""
    return tmp_path_factory.mktemp("mlflow")


_experiments = itertools.count()


@pytest.fixture
def tracking(mlflow_store: Path) -> Tracking:
    """A real MLflow store without a server, and an experiment that no other test sees."""
    uri = f"sqlite:///{mlflow_store}/mlflow.db"
    return Tracking(uri, f"experiment-{next(_experiments)}", mlflow_store / "artifacts")


@pytest.fixture
def disk_of(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """`disk_of(64)`: a folder that is a disk of 64 KiB. Needs root."""
    mounted: list[Path] = []

    def mount(kib: int) -> Path:
        place = tmp_path / "small"
        place.mkdir()
        words = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(place)]
        if os.getuid() or subprocess.run(words, check=False, capture_output=True).returncode:
            pytest.skip("mounting a disk needs root")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", str(place)], check=True)


def _drawing(colour: str, shape: str, copy: int) -> Sample:
    if (colour, shape) in {("red", "cross"), ("blue", "circle")}:
        split = "test_concept" if colour == "red" else "val_concept"
    else:
        split = ("train", "train", "train", "train", "val", "test")[copy]
    picture = Image.new("RGB", (TINY_PX, TINY_PX), ("#ffffff", "#e8e8e8")[copy % 2])
    left, top = 2 + 2 * copy, 12 - 2 * copy
    _draw(ImageDraw.Draw(picture), shape, COLOURS[colour], left=left, top=top)
    buffer = BytesIO()
    picture.save(buffer, "PNG")
    return Sample(
        id=f"{colour}-{shape}-{copy}",
        image=buffer.getvalue(),
        captions=(f"a {colour} {shape}", f"the {shape} is {colour}"),
        split=split,
        concept=f"{colour}-{shape}",
        label=f"{colour} {shape}",
        concept_family=f"{colour}-{shape}",
        origin="tests/conftest.py",
        license="CC0-1.0",
        boxes=(
            Box(
                label=f"{colour} {shape}",
                left_px=left,
                top_px=top,
                right_px=left + 18,
                bottom_px=top + 18,
            ),
        ),
        questions=(
            Question(text=f"what color is the {shape} ?", answers=(colour,)),
            Question(text=f"what shape is {colour} ?", answers=(shape,)),
        ),
    )


def _draw(draw: ImageDraw.ImageDraw, shape: str, colour: str, *, left: int, top: int) -> None:
    right, bottom = left + 17, top + 17
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "square":
        draw.rectangle((left, top, right, bottom), fill=colour)
    elif shape == "triangle":
        draw.polygon(((left, bottom), (right, bottom), (left + 8, top)), fill=colour)
    else:
        draw.rectangle((left + 6, top, left + 11, bottom), fill=colour)
        draw.rectangle((left, top + 6, right, top + 11), fill=colour)
