"""Run one sweep as the command would: `python tests/flows/sweep_run.py EXPERIMENT.yaml TO.yaml`."""

from __future__ import annotations

import sys
from pathlib import Path

from flows.terminal import command


def main(experiment: str, to: str) -> None:
    with command(debug=False):
        from flows.sweep_settings import sweep_settings

        # The form offers the shipped experiments only; a test brings its own file.
        unchecked = sweep_settings.with_options(validate_parameters=False)
        for line in unchecked(experiment, [], Path(to)):
            print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
