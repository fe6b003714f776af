"""Words the rules of scene graphs must know by name; made for captions, nothing in them is learnt."""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUANTITIES = _words(
    "lot lots couple couples bunch bunches number numbers pair pairs dozen dozens variety series plenty handful "
    "array assortment multitude hundreds thousands tons loads many several few some all both none one each most "
    "rest type types kind kinds sort sorts"
)
"""Before "of" they say how many, and the noun behind is the object."""

PLACES = _words("top front back lieu")
"""Nouns that are part of a preposition: "on top of"."""

BEFORE = {
    "of": _words("outside inside ahead"),
    "to": _words("next close adjacent opposite"),
    "from": _words("away across far apart"),
}
"""Words that make one preposition with the one they stand before: "next to"."""

OTHERS = _words("one ones other others another")
"""Nouns in form that name nothing."""

LIGHT_VERBS = _words("be have do go get seem appear look become make take")
"""Verbs that say nothing of who does them where they have no object."""

PRONOUNS = {
    **dict.fromkeys(("he", "him", "his", "himself"), "he"),
    **dict.fromkeys(("she", "her", "hers", "herself"), "she"),
    **dict.fromkeys(("it", "its", "itself"), "it"),
    **dict.fromkeys(("they", "them", "their", "theirs", "themselves"), "they"),
}

FEMALE = _words(
    "woman girl lady mother mom daughter sister wife bride grandmother queen princess actress aunt"
)
MALE = _words(
    "man boy guy gentleman father dad son brother husband groom grandfather king prince uncle fireman policeman"
)

CORRECTED = {
    "bases": "base",
    "bathing": "bathe",
    "multicolored": "multicolored",
    "rides": "ride",
    "riding": "ride",
    "skies": "sky",
    "staring": "stare",
    "wading": "wade",
    "wooded": "wooded",
}
"""Base forms that the model gets wrong, among the words COCO's captions use most."""
