"""How often our tokeniser gives the reference programme's tokens: every COCO caption, and captions made tricky.

    python tests/benchmarks/tokens.py [--tricky 3000] [--seed 0]

Prints a line a kind: how many captions, how many differ, the share that is equal. Needs Java and the optional package
pycocoevalcap; says so and ends where they are not. Each caption is followed by a neutral line, as the reference reads on
over line ends.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))

from caption_sets import PACKAGE, coco_captions, unpack

from components.metrics.tokenise import tokenise

NEUTRAL = "qqq qqq"
FILTERED = {"''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
BREAKS = set("\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029")
"""The reference breaks a line at some of these, and all later captions would shift."""
PIECES = {
    "punctuation": [*".,!?;:-'\"()[]{}/&%$#@*+=<>~^_|`“”‘’—–…•°×™", "...", "--", "''", "``"],
    "apostrophes": [
        "n't",
        "'s",
        "'re",
        "'ll",
        "s'",
        "’s",
        "n’t",
        "'em",
        "'til",
        "'90s",
        "o'clock",
        "y'all",
        "cannot",
        "gonna",
        "ain't",
        "O'Brien",
    ],
    "abbreviations": [
        "Mr.",
        "Dr.",
        "U.S.",
        "a.m.",
        "e.g.",
        "etc.",
        "vs.",
        "St.",
        "Inc.",
        "J.K.",
        "D.C.",
        "Ave.",
        "Oct.",
        "R.",
        "ft.",
        "Co.",
    ],
    "numbers": [
        "3",
        "1,000",
        "1.5",
        "3:45",
        "12/25/2010",
        "1/2",
        "50%",
        "$5.99",
        "#7",
        "2nd",
        "1990s",
        "5'6\"",
        "555-1234",
        ".5",
        "5.",
        "24/7",
    ],
    "web": [
        "www.flickr.com",
        "http://a.com/b?c=d",
        "a@b.com",
        "C++",
        "AT&T",
        "w/",
        "and/or",
        "#tag",
        "@user",
        "<b>",
        ":)",
        "T-shirt",
    ],
    "other letters": [
        "café",
        "naïve",
        "東京",
        "Привет",
        "ñandú",
        "ﬁre",
        "😀",
        "ß",
        "İstanbul",
        "Ελλάδα",
        "עברית",
        "العربية",
        "한국어",
        "№",
        "§",
    ],
}


def main() -> None:
    """Compare and print the shares."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--tricky", type=int, default=3000, help="captions of each kind")
    asked.add_argument("--seed", type=int, default=0)
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-tokens-") as temporary:
        if absent := unpack(Path(temporary)):
            print(f"Nothing to compare with: {absent}")
            return
        plain = [text for text in coco_captions() if not BREAKS & set(text)]
        compare("COCO 2014", plain, Path(temporary))
        draw = random.Random(given.seed)
        for kind, pieces in PIECES.items():
            made = [tricky(draw.choice(plain), pieces, draw) for _ in range(given.tricky)]
            compare(kind, made, Path(temporary))


def compare(kind: str, captions: list[str], folder: Path) -> None:
    """One line: how many, and the share that is equal."""
    theirs = reference(captions, folder)
    equal = sum(
        " ".join(tokenise(text)) == line for text, line in zip(captions, theirs, strict=True)
    )
    print(
        f"{kind:14} {len(captions):7,} captions, {len(captions) - equal} differ: {equal / len(captions):.4%} equal"
    )


def tricky(caption: str, pieces: list[str], draw: random.Random) -> str:
    """A caption with one to three pieces put between, before, behind and into its words."""
    words = caption.split()
    for _ in range(draw.randint(1, 3)):
        place, piece = draw.randrange(len(words)), draw.choice(pieces)
        word = words[place]
        cut = draw.randint(0, len(word))
        ways = (f"{piece} {word}", piece + word, word + piece, word[:cut] + piece + word[cut:])
        words[place] = draw.choices(ways, (5, 1, 2, 1))[0]
    return " ".join(words)


def reference(captions: list[str], folder: Path) -> list[str]:
    """The reference programme's lines, punctuation filtered out."""
    text = folder / "captions.txt"
    text.write_text("".join(f"{caption}\n{NEUTRAL}\n" for caption in captions), "utf-8")
    jar = folder / PACKAGE / "tokenizer" / "stanford-corenlp-3.4.1.jar"
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar)]
    command += ["edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase", str(text)]
    done = subprocess.run(command, capture_output=True, check=True)
    lines = done.stdout.decode().split("\n")[:-1]
    assert lines[1::2] == [NEUTRAL] * len(captions), "a line was broken"
    return [
        " ".join(word for word in line.split(" ") if word not in FILTERED) for line in lines[::2]
    ]


if __name__ == "__main__":
    main()
