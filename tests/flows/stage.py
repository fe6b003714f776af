"""Make one stage in a process of its own: `python tests/flows/stage.py STAGE.yaml LAUNCHER`; its digest is printed last."""

from __future__ import annotations

import sys

from flows.terminal import command


def main(experiment: str, launcher: str) -> None:
    with command(debug=False):
        from flows.train_stage import train_stage

        # The form offers the shipped experiments only; a test brings its own file.
        print(train_stage.with_options(validate_parameters=False)(experiment, launcher))


if __name__ == "__main__":
    main(*sys.argv[1:])
