"""A parsed caption -> scene-graph tuples, by the constructions SPICE's parser reads (Schuster et al. 2015; Anderson et
al. 2016, section 3.1): modifiers, subject-verb-object, verbs without object, copulas, prepositions, possessives,
passives, clauses on nouns, conjunctions, quantities, pronouns.

Words are read as spaCy's English models label them (ClearNLP dependencies, Penn tags). As in SPICE's paper a plural is
one object, a number is an attribute, and so is what a compound noun begins with: "three tennis courts" is (court),
(court, three), (court, tennis). Written from the papers; SPICE's own rules read other labels and differ in detail.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from components.metrics.scene_graph_nouns import (
    MODIFIERS,
    NOUNS,
    Word,
    counts,
    is_place,
    is_thing,
    is_verb,
    name,
    things,
)
from components.metrics.scene_graph_words import BEFORE, LIGHT_VERBS

SUBJECTS, PASSIVE = {"nsubj", "csubj"}, {"nsubjpass", "csubjpass"}
CLAUSES = {"conj", "advcl", "xcomp", "ccomp", "pcomp"}
"""Where a verb that names no subject has that of the word above it."""


def tuples(sentence: Iterable[Word]) -> list[tuple[str, ...]]:
    """What one caption states, each statement once: objects first, in the order they are read."""
    words = list(sentence)
    found: list[tuple[str, ...]] = [(name(word),) for word in words if is_thing(word)]
    for word in words:
        if is_thing(word):
            found += _modified(word)
            found += _owned(word)
        elif is_verb(word):
            found += _acting(word)
        if word.dep_ == "prep":
            found += _placed(word)
    return list(dict.fromkeys(found))


def _modified(thing: Word) -> Iterator[tuple[str, ...]]:
    for holder in _holders(thing):
        for child in holder.children:
            if child.dep_ in MODIFIERS and child.tag_ not in {"POS", "HYPH"}:
                for quality in _joined(child):
                    yield name(thing), _spelled(quality)
    if _describes(thing.head, thing):
        yield name(thing), name(thing.head)


def _describes(word: Word, thing: Word) -> bool:
    """ "Grinning face" may be read as a verb with its object, where nobody grins but the face."""
    before = thing.dep_ == "dobj" and word.i == thing.i - 1 and word.tag_ in {"VBG", "VBN"}
    return before and not _subjects(word)


def _holders(thing: Word) -> list[Word]:
    """A noun, and the quantity before it: in "two slices of pizza" and "a large bunch of grapes" both are described."""
    head = thing.head.head if thing.dep_ == "pobj" and thing.head.lower_ == "of" else None
    return [thing, head] if head is not None and counts(head) and head.tag_ != "CD" else [thing]


def _joined(quality: Word) -> Iterator[Word]:
    yield quality
    for child in quality.children:
        if child.dep_ == "conj":
            yield from _joined(child)


def _spelled(quality: Word) -> str:
    """The words that hyphens tie together are one quality: "double-decker"."""
    tied = [
        child
        for child in quality.lefts
        if child.dep_ != "punct" and any(c.tag_ == "HYPH" or c.text == "-" for c in quality.lefts)
    ]
    return "-".join([*(word.lower_ for word in tied), quality.lower_ if tied else name(quality)])


def _owned(thing: Word) -> Iterator[tuple[str, ...]]:
    for child in thing.children:
        if child.dep_ == "poss":
            for owner in things(child):
                if owner.i != thing.i:
                    yield name(owner), name(thing), "have"


def _acting(verb: Word) -> Iterator[tuple[str, ...]]:
    doers, passive = _subjects(verb), _is_passive(verb)
    objects = _objects(verb)
    if passive:
        agents = [
            each
            for child in verb.children
            if child.dep_ == "agent"
            for noun in child.children
            if noun.dep_ == "pobj"
            for each in things(noun)
        ]
        doers, objects = (agents, doers) if agents else (doers, [])
    relation = " ".join([name(verb), *(c.lower_ for c in verb.children if c.dep_ == "prt")])
    for doer in doers:
        yield from ((name(doer), name(other), relation) for other in objects if other.i != doer.i)
        if not objects and relation not in LIGHT_VERBS and verb.dep_ not in {"aux", "auxpass"}:
            yield name(doer), relation
        for child in verb.children:
            if child.dep_ in {"acomp", "oprd"} and child.tag_ not in NOUNS:
                yield from ((name(doer), _spelled(quality)) for quality in _joined(child))


def _objects(verb: Word) -> list[Word]:
    found = [
        each
        for child in verb.children
        if child.dep_ in {"dobj", "dative"} or (child.dep_ == "attr" and not _exists(verb))
        for each in things(child)
    ]
    if verb.dep_ == "relcl" and any(
        c.dep_ == "dobj" and c.tag_ in {"WDT", "WP"} for c in verb.children
    ):
        found += things(verb.head)
    return found


def _exists(verb: Word) -> bool:
    """ "There is a dog": the dog is what is, and "there" no object."""
    return any(child.dep_ == "expl" for child in verb.children)


def _subjects(verb: Word) -> list[Word]:
    """Who does it, or whom a passive is done to; found above where the verb itself says nobody."""
    own = [child for child in verb.children if child.dep_ in SUBJECTS | PASSIVE]
    found = [each for child in own if child.tag_ not in {"WDT", "WP"} for each in things(child)]
    if _exists(verb):
        found += [each for c in verb.children if c.dep_ == "attr" for each in things(c)]
    if found:
        return found
    relative = not own or any(child.tag_ in {"WDT", "WP"} for child in own)
    if verb.dep_ in {"acl", "relcl"} and relative:
        return things(verb.head)[:1]
    if verb.dep_ in CLAUSES and not own:
        above = verb.head.head if verb.dep_ == "pcomp" else verb.head
        if above.i != verb.i:
            return _subjects(above) if is_verb(above) else things(above)[:1]
    return []


def _is_passive(verb: Word) -> bool:
    if any(child.dep_ in PASSIVE | {"auxpass", "agent"} for child in verb.children):
        return True
    return bool(verb.tag_ == "VBN" and verb.dep_ == "acl")


def _placed(preposition: Word) -> Iterator[tuple[str, ...]]:
    """(object, preposition, object); on a verb the preposition places whoever does it."""
    governors, before = _governors(preposition)
    for relation, noun in _ends(preposition, before):
        for governor in governors:
            for other in things(noun):
                if governor.i != other.i:
                    yield name(governor), name(other), relation


def _governors(preposition: Word) -> tuple[list[Word], str]:
    """What is placed, and what stands before the preposition and is part of it: the "next" of "next to"."""
    head = preposition.head
    if head.dep_ in {"prep", "pobj"} and (head.dep_ == "prep" or is_place(head)):
        return [], ""  # said with the preposition it is part of
    before = ""
    if preposition.i and (left := preposition.nbor(-1)).lower_ in BEFORE.get(
        preposition.lower_, ()
    ):
        before = f"{left.lower_} "
        head = left.head if left.i == head.i else head
    if is_verb(head) or head.tag_ == "MD":
        found = _subjects(head)
        if _is_passive(head) or found:
            return found, before
        return [each for c in head.children if c.dep_ == "dobj" for each in things(c)], before
    if head.dep_ in {"acomp", "amod", "oprd"}:
        above = head.head
        return (_subjects(above) if is_verb(above) else things(above)[:1]), before
    if counts(head):
        return [], ""
    return things(head)[:1] if is_thing(head) else [], before


def _ends(preposition: Word, before: str = "") -> Iterator[tuple[str, Word]]:
    """The whole preposition with each noun it leads to: "on top of" court, "from behind" tree."""
    so_far = before + preposition.lower_
    for child in preposition.children:
        if child.dep_ == "prep":
            yield from _ends(child, f"{so_far} ")
        elif child.dep_ == "pobj" and is_place(child):
            for inner in child.children:
                if inner.dep_ == "prep":
                    yield from _ends(inner, f"{so_far} {child.lower_} ")
        elif child.dep_ == "pobj":
            yield so_far, child
