"""Captions -> words, as the Penn Treebank tokeniser of COCO's caption evaluation splits and filters them.

Written from behaviour: tables of English (`ptb_tables.py`) and one compiled alternation. A caption is tokenised alone;
the reference reads on into the next caption of its file, and its dots then depend on the neighbour. Where a caption
given to it alone loses a clitic at the very end ("than they're"), we keep it, as the reference does in its file. What no
alternative names is dropped in silence: spaces, quotes, commas, colons, single dots and dashes (the reference filters
these kinds out afterwards), control characters, lone surrogates and all beyond U+FFFF, emoji included.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable

from components.metrics.ptb_tables import (
    ABBREVIATIONS,
    MERGED,
    NUMBERED,
    OPENERS,
    SPELT,
    STATES,
    WITH_APOSTROPHE,
    WRITTEN_OUT,
)


def tokenise(caption: str) -> list[str]:
    """The caption's words in lower case, punctuation filtered out; a pure function of this one caption.

    A token may hold a no-break space ("3\u00a01/2"): mixed fractions, telephone numbers, markup.

    >>> tokenise("A close-up of a cat's face, isn't it?")
    ['a', 'close-up', 'of', 'a', 'cat', "'s", 'face', 'is', "n't", 'it']
    """
    plain = _plain_words(caption)
    if plain is not None:
        return plain
    if "&" in caption or not caption.isascii():
        caption = _WRITTEN_OUT.sub(lambda found: WRITTEN_OUT[found[0]], caption)
    return [word for word in map(_spell, _TOKEN.findall(caption)) if word]


def _plain_words(caption: str) -> list[str] | None:
    """Nineteen of twenty captions: ASCII letters, spaces, commas before these, and one last dot that ends no abbreviation.

    None for any other.
    """
    body = caption.rstrip(" ").replace(", ", " ")
    dotted = body.endswith(".")
    body = body[:-1] if dotted else body
    if not (body.isascii() and body.replace(" ", "").isalpha()):
        return None
    words = body.lower().split()
    if dotted and (len(words[-1]) == 1 or words[-1] in _DOTTED) and not body.endswith(" "):
        return None
    return None if not _MERGED_WORDS.isdisjoint(words) else words


def _spell(token: str) -> str:
    """A matched piece of text as the reference writes it; empty if the reference filters it out."""
    if token.lower() in SPELT:
        return SPELT[token.lower()]
    if token.isalnum():
        return token.lower()
    if not token.strip(FILTERED) or _BLANK.match(token):
        return ""
    if _CLITICS.fullmatch(token):
        token = token.translate(_STRAIGHT)
    return token.lower().replace("(", "-lrb-").replace(")", "-rrb-").replace(" ", "\u00a0")


def _characters(belongs: Callable[[str], bool]) -> str:
    """The inside of a character class: what belongs of U+0000 to U+FFFF, as few ranges as can be."""
    ranges: list[list[str]] = []
    open_range = False
    for character in map(chr, range(0x10000)):
        # A code point without a character may fall on either side: compiling takes half the time.
        if unicodedata.category(character) == "Cn":
            continue
        if belongs(character) and open_range:
            ranges[-1][1] = character
        elif belongs(character):
            ranges.append([character, character])
        open_range = belongs(character)
    return "".join(rf"\u{ord(first):04x}-\u{ord(last):04x}" for first, last in ranges)


def _is_letter(character: str) -> bool:
    kind = unicodedata.category(character)[0]
    # Marks of living scripts belong to their letter; later ones are selectors of emoji and the like.
    return kind == "L" or (kind == "M" and character < "\u1000")


def _one_of(words: Iterable[str]) -> str:
    return "(?:" + "|".join(re.escape(word).replace("'", Q) for word in words) + ")"


# Pieces the alternatives are made of; `++`, `*+` and `(?>…)` never give back, so no text makes a piece try twice. Groups
# are `(?>(?:…)+)` and not `(?:…)++`: before 3.11.5 Python kept half an iteration of the latter (gh-106052).
Q = "['’]"
APOSTROPHE = "['’`‘‛]"
L = f"[{_characters(_is_letter)}]"
W = f"[{_characters(lambda character: _is_letter(character) or character.isdecimal())}]"
PART = rf"(?>(?:[dlnoDLNO]{Q})?){W}++(?>(?:_{W}++)*)"
SLASHABLE = r"[A-Za-z0-9]++(?>(?:-[A-Za-z]++)*)"
BLANK = r"[\s\x00-\x1f\x7f\ud800-\udfff\U00010000-\U0010ffff]++"
INITIALS = rf"(?>(?:[A-Za-z]\.)+)(?!{L})"
ACRONYM = rf"(?>(?:[A-Za-z]\.){{2,}})(?!{L})"
# The typographic apostrophe cuts a clitic off whatever follows: "ab’man" -> "ab 'm an".
CLITIC = r"(?:'(?i:s|m|d|re|ve|ll)(?![A-Za-z])|’(?i:s|m|d|re|ve|ll))"
NOT = rf"(?i:n{APOSTROPHE}t)"
HALF = "|".join(rf"(?i:{one})(?=(?i:{two})(?!{W}|{Q}{L}))" for one, two in MERGED.items())
REST = r"[^\s<>\"(){}|]*"
END = r"[^\s<>\"(){}|.,!?-]"
STOP = r"(?:\.(?=[,;:]))?"
GAP = r"[ \xa0-]"
SYMBOL = (
    r"[#$%&*+/<=>@\\^_|~()\[\]{}¡-©¬®-´¶-¹¼-¿×÷"
    r"\u037e\u0387\u0589\u05be-\u05f4\u0600-\u061f\u066a\u066d\u06d4\u0700-\u070d\u0964\u0965\u0e3f\u0e4f"
    r"\u2016\u2017\u201a\u201e-\u2023\u2030-\u2038\u203b\u203e-\u2042\u2044\u2070-\u208e\u20a0\u20a4\u20ac"
    r"\u2100-\u214f\u2153-\u215e\u2190-\u2bff\u3001\u3002\u3012\u30fb"
    r"\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff65\uffe0\uffe1\uffe5\uffe6]"
)

# The first that matches wins, so of two that can start alike the one that reaches further stands first.
ALTERNATIVES = (
    # What begins nothing longer, first only for speed.
    rf"{BLANK}|(?!{HALF})[A-Za-z]{{2,}}+(?= )|[,()\[\]{{}}](?!\d)|[\"“”%/~|$\\]|&(?![a-z#])|\+(?![\d.,:])",
    r"--+|\.\.\.|''",
    r"(?i:&(?:lt|gt);)|&\#\d++;",
    r"</?[A-Za-z!?][^<>]*+>",
    rf"(?i:https?://)[A-Za-z0-9]++(?>(?:[.-][A-Za-z0-9]++)+)(?:[:/?#](?:{REST}{END})?)?",
    rf"(?:[A-Za-z0-9]++\.){{1,8}}(?i:com|net|org|edu)/{REST}(?<!/){END}",
    r"<?[A-Za-z0-9][\w.+-]{0,63}(?<!\.)@[A-Za-z0-9][^\s<>\"(){}|]*(?<!\.)>?",
    r"[<>]?[:;=][-o*']?[DdPpO()\[\]{|@\\](?=[^A-Za-z0-9])|\^_\^|-_-|=_=",
    rf"(?:\(\d{{2,3}}\){GAP}?|(?:\d{{2,4}}{GAP})?\d{{2,4}}{GAP})\d{{3,4}}{GAP}?\d{{3,5}}",
    rf"\d{{1,4}}{GAP}\d{{1,4}}/\d{{1,4}}",
    rf"{SLASHABLE}(?:/{SLASHABLE}){{1,2}}",
    rf"{PART}(?:[.,]++{W}++){{0,8}}[.,]*+(?>(?:[-\u2010\u2011](?:{ACRONYM}|{PART}))+){STOP}",
    r"[A-Z]++(?>(?:&[A-Z]++)+)|[A-Z]{1,3}\$|[Cc]\+\+|[CcFf]\#",
    rf"[A-Za-z](?=\.\s++(?:{_one_of(OPENERS)}\s|</?[A-Za-z]))|{INITIALS}|(?i:ph\.d\.)",
    rf"(?i:{_one_of(ABBREVIATIONS)})\.(?!{L})|(?i:{_one_of(NUMBERED)})\.(?=[ \xa0]?\d)",
    rf"(?:{_one_of(map(str.title, STATES))}|{_one_of(map(str.upper, STATES))})\.(?!{L})",
    rf"{L}{W}*+(?>(?:[.!?]{L}{W}*+)+)",
    r"[+-]?\d*+(?>(?:[.,:]\d++)+)|[+-]\d++",
    rf"(?i:{_one_of(WITH_APOSTROPHE)})|{Q}[nN](?:{Q}|(?!\S))|’[nN]|{Q}\d\d(?:[sS]|(?!\S))|{CLITIC}|'[tT](?=(?i:is|was))",
    rf"[dlnoA-HJ-XZ](?!{Q}(?i:ll|ve|re)(?!{L})){APOSTROPHE}{L}{L}{W}*+|[djlDJL](?!{CLITIC}){Q}|[yY](?!{CLITIC}){Q}(?={L})",
    rf"{L}+?(?<![nN])(?={NOT})|{NOT}{L}*+",
    rf"{L}{L}++(?<=[aeiouyAEIOUY])(?!{CLITIC}){APOSTROPHE}[aeiouA-Z]{L}*+",
    HALF,
    rf"{W}++(?>(?:_{W}++)*){STOP}",
    rf"#{L}++|@[A-Za-z_][A-Za-z0-9_]*+",
    r"[!?]{2,}+|\*++|\#++|@++|_++|>>?|<<?",
    SYMBOL,
)
FILTERED = "-.,'’\"“”"
_BLANK = re.compile(BLANK)
_TOKEN = re.compile("|".join(ALTERNATIVES))
_CLITICS = re.compile(rf"{CLITIC}|{NOT}")
_STRAIGHT = str.maketrans({"’": "'", "‘": "`", "‛": "`"})
_WRITTEN_OUT = re.compile("|".join(map(re.escape, WRITTEN_OUT)))
_DOTTED = frozenset((*ABBREVIATIONS, *STATES))
_MERGED_WORDS = frozenset(one + two for one, two in MERGED.items())
