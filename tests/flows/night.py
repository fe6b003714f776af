"""Run one night in a process of its own, so that a test can kill it: `python tests/flows/night.py EXPERIMENT.yaml`.

It ends as the command would: mistakes in words, exit code 2. Flags are `force` and overrides such as training.lr=1.
"""

from __future__ import annotations

import sys

from flows.terminal import command


def main(experiment: str, launcher: str, *flags: str) -> None:
    overrides = [flag for flag in flags if "=" in flag]
    with command(debug=False):
        from flows.nightly_retrain import nightly_retrain

        # The form offers the shipped experiments only; a test brings its own file.
        night = nightly_retrain.with_options(validate_parameters=False)
        for outcome in night([experiment], overrides, "force" in flags, launcher):
            print(outcome.sentence())


if __name__ == "__main__":
    main(*sys.argv[1:])
