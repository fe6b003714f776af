"""The words SPICE counts apart: numbers, colours, sizes (Anderson et al. 2016, section 5.3).

Found by asking the published programme about several hundred words, one by one; those it puts in a category are here.
"""

from __future__ import annotations


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


NUMBERS = _words("one two three four five six seven eight nine ten")

COLOURS = _words(
    "beige black blue brown cream dark gray green grey light maroon orange pink purple red "
    "violet white yellow"
)

SIZES = _words(
    "baby big broad bulky colossal compact cosmic enormous extensive fat full-size gargantuan "
    "gaunt giant gigantic grand great hefty huge hulking immense infinitesimal lanky large lean "
    "life-size little long mammoth massive microscopic mini miniature minuscule minute narrow "
    "obese outsized petite plump pocket-size puny scrawny short sizable skinny slender slim "
    "small squat stocky stout strapping tall teensy teeny thick thin tiny titanic towering "
    "undersized vast wee whopping wide"
)
