"""What a sweep found, as an experiment's file: the file that was swept, with the best trial's settings put in."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import yaml

from components import atomic
from components.config import ConfigError
from components.training.sweeps.search import SPLIT
from components.training.sweeps.trials import Sweep, Trial
from flows.experiment import LONGEST_NAME, check_name, read_experiment, read_text
from flows.output_files import refuse_unwritable


def check_place(path: Path, experiment: str) -> None:
    """Refuse a file that could not be written, or not be read as an experiment, before anything is trained."""
    if path.suffix != ".yaml":
        raise ConfigError(f"--to {path} is no experiment's file; give a name that ends in .yaml.")
    check_name(path)
    source, _ = read_text(experiment)
    refuse_unwritable({"--to": path}, [source])
    if path.stem != source.stem:
        # The file will be the experiment's, and one that is named as a stage of it would need itself.
        read_experiment(experiment, within=(path.stem,))


def usual_place(folder: Path, name: str) -> Path:
    """Where the best settings of the experiment `name` are written unless it is said; a long name is cut to leave room."""
    ending = "_best"
    return folder / f"{name[: LONGEST_NAME - len(ending)]}{ending}.yaml"


def write_best(
    path: Path, experiment: str, overrides: Sequence[str], sweep: Sweep, best: Trial
) -> Path:
    """Write the file, and read it again as whoever trains it will; returns its path."""
    source, text = read_text(experiment, overrides)
    del text["search"]
    for name, value in best.settings.items():
        section, _, key = name.partition(".")
        text.setdefault(section, {})[key] = value
    said = (
        f"# {source.stem} with the best of {len(sweep.trials())} trials: {sweep.search.metric} {best.value:.4f} on "
        f"{SPLIT} (sweep {sweep.folder.name}, {best.key}).\n"
        "# Chosen by that number, so it flatters; what the gate reads is measured on another split.\n"
    )
    atomic.write_text(path, said + yaml.safe_dump(text, sort_keys=False, allow_unicode=True))
    read_experiment(str(path))
    return path
