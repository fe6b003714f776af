"""One side of the benchmark in a process of its own: `ours` or `peer`; answers as JSON on the last line.

CPU seconds are of this process and of all it started (Java). What is loaded once for any number of captions (imports,
our compiled tables) is loaded before a clock starts; what the peer's programmes load at every start counts.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def cpu_s() -> float:
    """User and system seconds of this process and of its children that ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@contextlib.contextmanager
def clock(seconds: dict[str, list[float]], stage: str) -> Iterator[None]:
    began_s, cpu = time.monotonic(), cpu_s()
    yield
    seconds[stage] = [cpu_s() - cpu, time.monotonic() - began_s]


def ours(candidates: list[str], references: list[list[str]], cache: Path) -> dict:
    """Stage by stage, as `diptych score` computes them."""
    from components.metrics import scoring, with_data
    from components.metrics.material import Material, Texts, Words

    has_meteor = with_data.meteor_missing(cache) is None
    # So many that METEOR takes its compiled kernels, and loads numba for the others.
    warm = Words([["a", "dog"]] * 2000, [[["a", "cat"]]] * 2000)
    stages = {"METEOR": ("meteor",)} if has_meteor else {}
    stages["BLEU + ROUGE-L + CIDEr-D"] = ("bleu", "rouge_l", "cider")
    stages |= {"ROUGE-L": ("rouge_l",), "CIDEr-D": ("cider",)}
    for measures in stages.values():
        scoring.score(warm, measures, cache=cache)
    before = peak_mib()
    seconds: dict[str, list[float]] = {}
    with clock(seconds, "tokens"):
        words = Material(Texts(candidates, references)).words
    found = {}
    for stage, measures in stages.items():
        with clock(seconds, stage):
            found |= scoring.score(words, measures, cache=cache).corpus()
    return {"seconds": seconds, "peak_mib": peak_mib(), "before_mib": before}


def peer(candidates: list[str], references: list[list[str]], folder: Path) -> dict:
    """pycocoevalcap as its own `eval.py` calls it."""
    sys.path.insert(0, str(folder))
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.meteor.meteor import Meteor
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    seconds: dict[str, list[float]] = {}
    values: dict[str, float] = {}
    with clock(seconds, "tokens"):
        tokenizer = PTBTokenizer()
        res = tokenizer.tokenize({n: [{"caption": text}] for n, text in enumerate(candidates)})
        gts = tokenizer.tokenize(
            {n: [{"caption": text} for text in some] for n, some in enumerate(references)}
        )
    tokens = [[text.split(" ") for text in some] for some in (*res.values(), *gts.values())]
    (folder / "tokens.json").write_text(json.dumps(tokens))
    scorers: dict[str, Callable] = {"BLEU": lambda: Bleu(4), "ROUGE_L": Rouge, "CIDEr": Cider}
    for name, make in scorers.items():
        with clock(seconds, name), contextlib.redirect_stdout(sys.stderr):
            value, _ = make().compute_score(gts, res)
        values |= (
            {f"Bleu_{n}": v for n, v in enumerate(value, 1)} if name == "BLEU" else {name: value}
        )
    with clock(seconds, "METEOR"):
        meteor = Meteor()
        values["METEOR"], _ = meteor.compute_score(gts, res)
        # Killed as its own __del__ does; the CPU of a child is counted once it was waited for.
        meteor.meteor_p.stdin.close()
        meteor.meteor_p.wait()
    bleu, rouge, cider = (seconds.pop(name) for name in scorers)
    three = [sum(column) for column in zip(bleu, rouge, cider, strict=True)]
    seconds |= {"BLEU + ROUGE-L + CIDEr-D": three, "ROUGE-L": rouge, "CIDEr-D": cider}
    plain = {name: float(value) for name, value in values.items()}
    return {"seconds": seconds, "values": plain, "peak_mib": peak_mib(), "before_mib": 0.0}


def check(candidates: list[str], references: list[list[str]], folder: Path) -> dict:
    """Ours on the peer's own tokens, and how many captions it had tokenised otherwise than alone."""
    from components.metrics import scoring, with_data
    from components.metrics.material import Words
    from components.metrics.tokenise import tokenise

    saved = json.loads((folder / "tokens.json").read_text())
    several = [[[word for word in text if word] for text in some] for some in saved]
    theirs = Words([one for [one] in several[: len(candidates)]], several[len(candidates) :])
    cache = Path((folder / "cache").read_text())
    measures = ["bleu", "rouge_l", "cider"]
    measures += ["meteor"] if with_data.meteor_missing(cache) is None else []
    texts = [*candidates, *(text for some in references for text in some)]
    spelt = [*theirs.candidates, *(text for some in theirs.references for text in some)]
    other = sum(tokenise(text) != words for text, words in zip(texts, spelt, strict=True))
    found = scoring.score(theirs, measures, cache=cache).corpus()
    return {"values": named(found), "other_tokens": other}


def named(found: dict[str, float]) -> dict[str, float]:
    """Our numbers by the peer's names."""
    shown = {f"bleu_{n}": f"Bleu_{n}" for n in (1, 2, 3, 4)}
    shown |= {"rouge_l": "ROUGE_L", "cider_d": "CIDEr", "meteor": "METEOR"}
    return {shown[name]: value for name, value in found.items() if name in shown}


def peak_mib() -> float:
    """Of this process, and the largest of its children beside it."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_maxrss for one in used) / 1024


def main() -> None:
    """`metrics_side.py ours|peer|check CAPTIONS.json FOLDER`."""
    side, captions, folder = sys.argv[1:]
    candidates, references = json.loads(Path(captions).read_text("utf-8"))
    found = {"ours": ours, "peer": peer, "check": check}[side](candidates, references, Path(folder))
    os.write(1, (json.dumps(found) + "\n").encode())


if __name__ == "__main__":
    main()
