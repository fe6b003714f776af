"""METEOR's own view of a caption: the words it aligns, made from text that is already tokenised (`-norm`).

Written from behaviour. Hyphens between letters or digits part words, clitics keep their apostrophe ("do n 't"), dots
of initials go ("u.s." -> "us"), every symbol stands alone. A lone surrogate counts as a symbol.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

W = "0-9A-Za-z\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u017e\u0400-\u0527\u1d00-\u1d7f\ua640-\ua66e\ua67e-\ua697"
"""Inside of a character class: what words are made of. Other letters (Greek, Arabic, CJK) stand alone."""
A = W.removeprefix("0-9")
BLANK = "\t\n\f\r \u00a0\u2000-\u200a\u202f\u205f\u3000"
SEPARATOR = "|||"
"""The reference programme's wrapper strikes it from candidates; from references we strike it too."""

_QUOTES = str.maketrans({"`": "'", "‘": "'", "’": "'", "“": '"', "”": '"'})
_BLANKS = re.compile(rf"[{BLANK}]+")
_SYMBOL = re.compile(rf"([^{W} \x0b.',-])")
_DOTS = re.compile(r"(\.{2,})")
_HYPHEN = re.compile(rf"([{W}.])-([{W}])")
_COMMAS = (
    re.compile(r"([^0-9]),([^0-9])"),
    re.compile(r"([0-9]),([^0-9])"),
    re.compile(r"([^0-9]),([0-9])"),
)
_APOSTROPHES = (
    (re.compile(rf"([^{A}])'([^{A}])"), r"\1 ' \2"),
    (re.compile(rf"([^{W}])'([{A}])"), r"\1 ' \2"),
    (re.compile(rf"([{A}])'([^{A}])"), r"\1 ' \2"),
    (re.compile(rf"([{A}])'([{A}])"), r"\1 '\2"),
    (re.compile(r"([0-9])'(s)"), r"\1 '\2"),
)
_LETTER = re.compile(rf"[{A}]")
_CONTROL = "".join(map(chr, range(0x21)))


@dataclass(frozen=True)
class Prefixes:
    """Abbreviations that keep their dot before a capital, too."""

    always: frozenset[str]
    before_number: frozenset[str]
    """Those that keep it only before a digit ("No. 5")."""

    @staticmethod
    def parse(lines: Sequence[str]) -> Prefixes:
        """One abbreviation a line; `#NUMERIC_ONLY#` behind it, `#` in front of a remark."""
        entries = [line.split() for line in lines if line.strip() and not line.startswith("#")]
        return Prefixes(
            always=frozenset(entry[0] for entry in entries if len(entry) == 1),
            before_number=frozenset(entry[0] for entry in entries if len(entry) > 1),
        )


def normalise(tokens: Sequence[str], prefixes: Prefixes) -> list[str]:
    """The words METEOR reads in a tokenised caption, in lower case; takes time linear in its length.

    >>> normalise(["a", "close-up", "of", "cats", ".", "do", "n't", "u.s."], Prefixes.parse([]))
    ['a', 'close', 'up', 'of', 'cats', '.', 'do', 'n', "'t", 'us']
    """
    text = " ".join(tokens)
    if text.isascii() and text.replace(" ", "").isalnum():
        return text.lower().split(" ") if "  " not in text else text.lower().split()
    if SEPARATOR in text:
        text = text.replace(SEPARATOR, "").replace("  ", " ")
    return normalise_line(text, prefixes).lower().split()


def normalise_line(line: str, prefixes: Prefixes) -> str:
    """One line as METEOR's normaliser writes it, case kept."""
    line = line.translate(_QUOTES).replace("''", '"').replace("–", " - ")
    line = _SYMBOL.sub(r" \1 ", f" {line} ")
    line = _DOTS.sub(r" \1 ", line)
    for comma in _COMMAS:
        line = comma.sub(r"\1 , \2", line)
    line = _HYPHEN.sub(r"\1 \2", line.replace("--", "-"))
    for apostrophe, spaced in _APOSTROPHES:
        line = apostrophe.sub(spaced, line)
    # Other blanks than the space part words only now: until here they are words, which a dot looks at.
    words = [word for word in line.split(" ") if word]
    pairs = pairwise([*words, ""])
    line = " ".join(_dot(word, after, prefixes) for word, after in pairs)
    return _BLANKS.sub(" ", line).strip(_CONTROL)


def _dot(word: str, after: str, prefixes: Prefixes) -> str:
    """A word whose last dot stays, goes or becomes a word of its own."""
    body = word[:-1]
    if not body or word[-1] != "." or body[-1] == ".":
        return word
    if "." in body and _LETTER.search(body):
        return body.replace(".", "")
    if body in prefixes.always or "a" <= after[:1] <= "z":
        return word
    if body in prefixes.before_number and "0" <= after[:1] <= "9":
        return word
    return f"{body} ."
