"""Which words of a parsed caption are objects, and which objects a noun, a quantity or a pronoun stands for."""

from __future__ import annotations

from typing import Any

from components.metrics.scene_graph_words import (
    CORRECTED,
    FEMALE,
    MALE,
    OTHERS,
    PLACES,
    PRONOUNS,
    QUANTITIES,
)

Word = Any
"""spaCy's Token; `components/` imports without spaCy."""

NOUNS = {"NN", "NNS", "NNP", "NNPS"}
MODIFIERS = {"amod", "nummod", "compound", "nmod"}


def name(word: Word) -> str:
    """How a word is written in a tuple: its base form in lower case."""
    text = word.lower_
    return CORRECTED.get(text) or word.lemma_.lower() or text


def is_thing(word: Word) -> bool:
    """Whether a word is an object: a noun that is no mere part of another one, of a quantity or of a preposition."""
    if word.tag_ not in NOUNS or word.dep_ in {"compound", "npadvmod", "nmod"}:
        return False
    if word.lower_ in OTHERS or counts(word) or is_place(word):
        return False
    return any(map(str.isalnum, word.text))


def things(word: Word) -> list[Word]:
    """The objects a word in a noun's place stands for: itself, those joined to it by "and", or what a pronoun means."""
    if word.tag_ in {"PRP", "PRP$"}:
        return _meant(word)
    if inner := counted(word):
        found = things(inner)
    else:
        found = [word] if is_thing(word) else []
    for child in word.children:
        if child.dep_ == "conj" and not is_verb(child):
            found += things(child)
    return found


def _together(thing: Word) -> list[Word]:
    """An object and those joined to it; no pronoun among them, so that what a pronoun means is no pronoun."""
    found = [thing]
    for child in thing.children:
        if child.dep_ == "conj" and is_thing(child):
            found += _together(child)
    return found


def _meant(pronoun: Word) -> list[Word]:
    """The first object before a pronoun that agrees with it, with all it is joined to for "they"; else nothing.

    The first, as it is the subject in most captions: "a man holding a board over his head".
    """
    kind = PRONOUNS.get(pronoun.lower_)
    before = [word for word in pronoun.doc[: pronoun.i] if is_thing(word)]
    if kind == "they":
        several = [
            word for word in before if word.tag_ in {"NNS", "NNPS"} or len(_together(word)) > 1
        ]
        return _together(several[0]) if several else before[:1]
    wrong = {"he": FEMALE, "she": MALE, "it": FEMALE | MALE}.get(kind or "", frozenset())
    single = [word for word in before if word.tag_ in {"NN", "NNP"} and name(word) not in wrong]
    return single[:1] if kind else []


def is_verb(word: Word) -> bool:
    """Whether a word says what is done, and describes no noun."""
    return bool(word.tag_.startswith("VB")) and word.dep_ not in MODIFIERS


def is_place(word: Word) -> bool:
    """The "top" of "on top of": a noun that is part of a preposition."""
    if word.dep_ != "pobj" or word.lower_ not in PLACES:
        return False
    bare = not any(c.dep_ in {"det", "amod", "compound", "poss"} for c in word.children)
    return bare and any(c.dep_ == "prep" and c.lower_ == "of" for c in word.children)


def counts(word: Word) -> bool:
    """The "lot" of "a lot of people"."""
    return counted(word) is not None


def counted(word: Word) -> Word | None:
    """What comes in the quantity that a word says; None for a word that says none."""
    if word.lower_ not in QUANTITIES and word.tag_ not in {"CD", "DT", "PDT"}:
        return None
    for child in word.children:
        if child.dep_ == "prep" and child.lower_ == "of":
            for noun in child.children:
                if noun.dep_ == "pobj":
                    return noun
    return None
