"""Begin or go on with a run in a process of its own: `python tests/flows/resumed.py train|distill FILE|resume RUN|newest FILE`."""

from __future__ import annotations

import sys

from flows.terminal import command


def main(what: str, named: str, *overrides: str) -> None:
    with command(debug=False):
        from flows.distill_student import distill_student
        from flows.resume_run import resume_run
        from flows.runs.begun import newest_of
        from flows.train_model import train_model

        if what in ("train", "distill"):
            flow = train_model if what == "train" else distill_student
            # The form offers the shipped experiments only; a test brings its own file.
            begin = flow.with_options(validate_parameters=False)
            print(begin(named, list(overrides), "inline").sentence())
            return
        run = newest_of(named).key if what == "newest" else named
        print(resume_run(run, list(overrides), "inline").sentence())


if __name__ == "__main__":
    main(*sys.argv[1:])
