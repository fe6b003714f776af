"""Run one night in a process of its own, so that a test can kill it: `python tests/flows/night.py EXPERIMENT.yaml`."""

from __future__ import annotations

import os
import sys

from infra.settings import Settings


def main(experiment: str, launcher: str, *flags: str) -> None:
    os.environ.update(Settings.read().child_environment())
    from flows.nightly_retrain import nightly_retrain

    # The form offers the shipped experiments only; a test brings its own file.
    night = nightly_retrain.with_options(validate_parameters=False)
    for outcome in night([experiment], [], "force" in flags, launcher):
        print(outcome.sentence())


if __name__ == "__main__":
    main(*sys.argv[1:])
