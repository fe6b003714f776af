"""Scene graphs of captions as SPICE compares them: objects with attributes, relations between objects.

Words that share a synset become one concept, within a graph and between the graphs of an image's references. Written
from the paper (Anderson et al. 2016, arXiv:1607.08822) and from what the published programme answers; not for scoring.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from components.metrics.metric import MetricInputError

SceneTuple = Sequence[str]
"""(object,), (object, attribute) or (subject, object, relation)."""

Synonyms = Callable[[str], Iterable[int]]
"""Synsets of a lower-case word or of words joined by _, its base forms' among them; nothing for an unknown word."""


@dataclass(eq=False)
class Concept:
    """One meaning: the words that were used for it, and every synset of any of them."""

    words: set[str]
    synsets: set[int]

    def meets(self, other: Concept) -> bool:
        """Whether both have a word or a synset in common."""
        return not (self.words.isdisjoint(other.words) and self.synsets.isdisjoint(other.synsets))

    def likeness(self, other: Concept) -> float:
        """Shared synsets among all of both, in [0, 1]; 1 for a word in common."""
        if not self.words.isdisjoint(other.words):
            return 1.0
        return len(self.synsets & other.synsets) / max(len(self.synsets | other.synsets), 1)

    def take(self, other: Concept) -> None:
        """Become one with the other."""
        self.words |= other.words
        self.synsets |= other.synsets


@dataclass(eq=False)
class Node:
    """An object of the scene."""

    concept: Concept
    attributes: list[Concept] = field(default_factory=list)


class SceneGraph:
    """Tuples added one by one; `tuples` are what is left of them once synonyms are merged.

    synonyms: None keeps different words apart. What merges with what depends on the order of adding, as in the
    published programme.
    """

    def __init__(self, synonyms: Synonyms | None) -> None:
        self._synonyms = synonyms
        self._nodes: list[Node] = []
        self._relations: dict[tuple[int, int], list[Concept]] = {}

    def add(self, scene_tuple: SceneTuple) -> None:
        """Take one tuple in; MetricInputError if it is none."""
        if not all(isinstance(part, str) for part in scene_tuple):
            raise MetricInputError(f"A tuple is {scene_tuple!r}; its parts are words.")
        match scene_tuple:
            case str():
                raise MetricInputError(
                    f"A tuple is {scene_tuple!r}, a plain string; give a list of 1 to 3."
                )
            case (thing,):
                self._node(thing)
            case (thing, attribute):
                _merge(self._nodes[self._node(thing)].attributes, self._concept(attribute))
            case (subject, thing, relation):
                ends = self._node(subject), self._node(thing)
                # "be on" says no more than "on".
                concept = self._concept(relation.removeprefix("be "))
                _merge(self._relations.setdefault(ends, []), concept)
            case _:
                raise MetricInputError(
                    f"A tuple of {len(scene_tuple)} parts; they are (object), (object, attribute) and "
                    "(subject, object, relation)."
                )

    @property
    def tuples(self) -> list[tuple[Concept, ...]]:
        """Objects, attributes and relations as tuples of 1, 2 and 3 concepts: the object's first, the relation's last."""
        found: list[tuple[Concept, ...]] = []
        for node in self._nodes:
            found.append((node.concept,))
            found += [(node.concept, attribute) for attribute in node.attributes]
        for (subject, thing), relations in self._relations.items():
            ends = self._nodes[subject].concept, self._nodes[thing].concept
            found += [(*ends, relation) for relation in relations]
        return found

    def _concept(self, text: str) -> Concept:
        synsets = self._synonyms(text.lower().replace(" ", "_")) if self._synonyms else ()
        return Concept({text}, set(synsets))

    def _node(self, text: str) -> int:
        concept = self._concept(text)
        place = _nearest([node.concept for node in self._nodes], concept)
        if place is None:
            self._nodes.append(Node(concept))
            return len(self._nodes) - 1
        self._nodes[place].concept.take(concept)
        return place


def _nearest(known: Sequence[Concept], concept: Concept) -> int | None:
    """Where the concept most like this one stands, the first of equals; None if none meets it."""
    meeting = [place for place, other in enumerate(known) if other.meets(concept)]
    return max(meeting, key=lambda place: known[place].likeness(concept), default=None)


def _merge(known: list[Concept], concept: Concept) -> None:
    place = _nearest(known, concept)
    if place is None:
        known.append(concept)
    else:
        known[place].take(concept)
