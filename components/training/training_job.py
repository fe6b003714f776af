"""What a training is made from, as one record: small enough to send to another machine as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from components.abilities import Learns, LearnsFromFeatures
from components.catalog import MODELS
from components.config import ConfigError
from components.models.parts import Origin
from components.training import progress
from components.training.checkpoints import checkpoint
from components.training.keeping import CHECKPOINTS
from components.training.plan import TrainingPlan
from components.training.teachers.teaching import Distillation


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Everything a training is made from, small enough to send to another machine as JSON."""

    family: str
    """A name in `components/catalog.py`."""
    config: Mapping[str, Any]
    """The family's config; its `vocab_size` is replaced by that of the tokenizer training makes."""
    plan: TrainingPlan
    shards: Path
    """Folder of the prepared revision."""
    folder: Path
    """The run's own folder: checkpoints, progress, job.json."""
    split: str = "train"
    """The split it learns from, images and tokenizer both."""
    parts: Mapping[str, Origin] = field(default_factory=dict)
    """What its slots are handed."""
    distillation: Distillation | None = None
    """The teacher it learns from beside its data, and how."""
    mirror: str = ""
    """Where its checkpoints are copied: a folder or what fsspec opens, as s3://bucket/prefix. No part of what it is."""

    def __post_init__(self) -> None:
        # A worker has another working directory, and JSON no tuples.
        object.__setattr__(self, "shards", Path(self.shards).absolute())
        object.__setattr__(self, "folder", Path(self.folder).absolute())
        object.__setattr__(self, "config", json.loads(json.dumps(dict(self.config))))
        family = MODELS[self.family]
        if (
            self.distillation
            and self.plan.accumulate > 1
            and issubclass(family, LearnsFromFeatures)
        ):
            raise ConfigError(
                f"accumulate={self.plan.accumulate} would hold a student of {self.family} against its teacher within "
                "each micro-batch alone; accumulate=1 with a smaller batch_size, or more workers, keeps the batch whole."
            )

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.folder / CHECKPOINTS

    @property
    def progress(self) -> Path:
        """The file of progress lines."""
        return self.folder / progress.FILE

    @property
    def learns(self) -> bool:
        """Whether it is trained; the others are built, in no step."""
        return issubclass(MODELS[self.family], Learns)

    @property
    def steps(self) -> int:
        """Steps until it is done."""
        return self.plan.steps if self.learns else 0

    @property
    def final(self) -> Path:
        """Where the checkpoint of the last step lies once the job is done."""
        return checkpoint.place(self.checkpoints, self.steps)

    def to_dict(self) -> dict[str, Any]:
        """As JSON can hold it."""
        parts = {slot: asdict(origin) for slot, origin in self.parts.items()}
        return {
            "family": self.family,
            "config": dict(self.config),
            "plan": self.plan.to_dict(),
            "shards": str(self.shards),
            "folder": str(self.folder),
            "split": self.split,
            **({"parts": parts} if parts else {}),
            **({"distillation": self.distillation.to_dict()} if self.distillation else {}),
            **({"mirror": self.mirror} if self.mirror else {}),
        }

    @classmethod
    def from_dict(cls, saved: Mapping[str, Any]) -> TrainingJob:
        """The job that `to_dict` gave. Raises `ConfigError` for a plan that cannot work."""
        parts = {slot: Origin(**origin) for slot, origin in saved.get("parts", {}).items()}
        made = {"plan": TrainingPlan.from_dict(saved["plan"]), "parts": parts}
        if "distillation" in saved:
            made["distillation"] = Distillation.from_dict(saved["distillation"])
        return cls(**{**saved, **made})

    @classmethod
    def read(cls, path: Path) -> TrainingJob:
        """The job in a `job.json`."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))
