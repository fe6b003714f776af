"""Made scenes of coloured shapes with exact captions, boxes and questions: what tests and first trainings run on.

Level 0 is one shape in one of five places; level 1 has one shape with its size and place, several equal ones, or a pair
with its relation. A scene is a function of its index, so any of them can be made alone. Not for judging real models.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass

from components.data.sources.shape_drawing import (
    BACKGROUNDS,
    COLOURS,
    OUTLINES,
    Thing,
    box,
    draw,
)
from components.records import Question, Sample

L0_SCENES, L1_SCENES = 2_000, 8_820
LICENSE = "CC0-1.0"
_NUMBERS = {1: "one", 2: "two", 3: "three", 4: "four"}
_ROWS, _COLUMNS = ("top", "", "bottom"), ("left", "", "right")
_RELATIONS = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
_RADIUS_PX = {"small": 5, "big": 9}
_TINT = 9
"""Each background channel moves by at most this, so that no two scenes have the same pixels."""


@dataclass(frozen=True, kw_only=True)
class _Scene:
    kind: str
    things: tuple[Thing, ...]
    background: str
    captions: tuple[str, ...]
    questions: tuple[Question, ...]


def shapes_l0(scenes: int = L0_SCENES) -> Iterator[Sample]:
    """Scenes of level 0, 32 px."""
    return (scene(index, 0) for index in range(scenes))


def shapes_l1(scenes: int = L1_SCENES) -> Iterator[Sample]:
    """Scenes of level 1, 64 px; of 8,820 about 6,000 train, 500 each validate and test, the rest is held out."""
    return (scene(index, 1) for index in range(scenes))


def scene(index: int, level: int, seed: int = 0) -> Sample:
    """The scene of that index, the same each time; level is 0 or 1."""
    if level not in (0, 1):
        raise ValueError(f"Shapes have the levels 0 and 1, not {level}.")
    dice = random.Random(f"shapes {level} {seed} {index}")  # a text is hashed, the same everywhere
    side_px = 64 if level else 32
    made = _one_of_l1(dice) if level else _corner_scene(dice)
    tinted = [channel + dice.randint(-_TINT, _TINT) for channel in BACKGROUNDS[made.background]]
    red, green, blue = tinted
    concept, label = _concept(made)
    return Sample(
        id=f"l{level}-{index:06d}",
        image=draw(made.things, (red, green, blue), side_px),
        captions=made.captions,
        split=_split(made, index, level),
        concept=concept,
        label=label,
        concept_family="+".join(sorted({thing.name.replace(" ", "-") for thing in made.things})),
        origin=f"shapes_l{level}",
        license=LICENSE,
        group=made.kind,
        boxes=tuple(box(thing) for thing in made.things),
        questions=made.questions,
    )


def is_held_out(colour: str, shape: str) -> bool:
    """Whether training never sees this colour on this shape, though it sees both apart."""
    named = hashlib.sha1(f"{colour} {shape}".encode(), usedforsecurity=False).hexdigest()
    return int(named, 16) % 8 == 0


def _split(made: _Scene, index: int, level: int) -> str:
    if any(is_held_out(thing.colour, thing.shape) for thing in made.things):
        return "test_concept"
    parts = 14 if level else 10
    return {parts - 2: "val", parts - 1: "test"}.get(index % parts, "train")


def _concept(made: _Scene) -> tuple[str, str]:
    """Key and name of what a scene shows; where it stands is no part of that."""
    if made.kind == "count":
        name = made.things[0].name
        number = _NUMBERS[len(made.things)]
        return f"{number}-{name}".replace(" ", "-"), f"{number} {_plural(name)}"
    names = sorted(thing.name for thing in made.things)
    return "+".join(names).replace(" ", "-"), " and ".join(names)


def _corner_scene(dice: random.Random) -> _Scene:
    colour, shape = dice.choice(list(COLOURS)[:4]), dice.choice(list(OUTLINES)[:4])
    row, column = dice.choice([(0, 0), (0, 2), (1, 1), (2, 0), (2, 2)])
    background = dice.choice(["white", "black"])
    x_px, y_px = (8 + 8 * cell + dice.randint(-1, 1) for cell in (column, row))
    thing = Thing(colour=colour, shape=shape, x_px=x_px, y_px=y_px, radius_px=dice.randint(5, 6))
    at, place = _place(row, column)
    captions = (
        f"a {thing.name} {at}",
        f"there is a {thing.name} {at}",
        f"the {shape} {at} is {colour}",
        f"a {shape} that is {colour} {at}",
        f"a {thing.name} on {background}",
    )
    questions = (
        Question(text=f"what color is the {shape} ?", answers=(colour,)),
        Question(text=f"what shape is {colour} ?", answers=(shape,)),
        Question(text=f"where is the {shape} ?", answers=(at, place)),
    )
    return _Scene(
        kind="one", things=(thing,), background=background, captions=captions, questions=questions
    )


def _one_of_l1(dice: random.Random) -> _Scene:
    return dice.choice([_single, _several, _pair])(dice)


def _single(dice: random.Random) -> _Scene:
    size, background = dice.choice(list(_RADIUS_PX)), dice.choice(list(BACKGROUNDS))
    row, column = dice.randrange(3), dice.randrange(3)
    thing = _thing(dice, _colour(dice), _shape(dice), row, column, _RADIUS_PX[size])
    at, place = _place(row, column)
    colour, shape = thing.colour, thing.shape
    captions = (
        f"a {size} {thing.name} {at}",
        f"there is a {size} {thing.name} {at}",
        f"the {size} {shape} {at} is {colour}",
        f"a {size} {shape} that is {colour} {at}",
        f"{_a(thing.name)} on a {background} background",
    )
    questions = (
        Question(text=f"what color is the {shape} ?", answers=(colour,)),
        Question(text=f"what shape is {colour} ?", answers=(shape,)),
        Question(text=f"where is the {shape} ?", answers=(at, place)),
        Question(text=f"is the {shape} small or big ?", answers=(size,)),
        Question(text="how many shapes are there ?", answers=("one", "1")),
    )
    return _Scene(
        kind="one", things=(thing,), background=background, captions=captions, questions=questions
    )


def _several(dice: random.Random) -> _Scene:
    number, background = dice.randint(2, 4), dice.choice(list(BACKGROUNDS))
    colour, shape = _colour(dice), _shape(dice)
    cells = dice.sample([(row, column) for row in range(3) for column in range(3)], number)
    things = tuple(_thing(dice, colour, shape, row, column, 7) for row, column in cells)
    word, shapes = _NUMBERS[number], _plural(shape)
    captions = (
        f"{word} {colour} {shapes}",
        f"there are {word} {colour} {shapes}",
        f"a picture of {word} {colour} {shapes}",
        f"{word} {shapes} that are {colour}",
        f"{word} {colour} {shapes} on a {background} background",
    )
    questions = (
        Question(text="how many shapes are there ?", answers=(word, str(number))),
        Question(text=f"how many {shapes} are there ?", answers=(word, str(number))),
        Question(text=f"what color are the {shapes} ?", answers=(colour,)),
    )
    return _Scene(
        kind="count", things=things, background=background, captions=captions, questions=questions
    )


def _pair(dice: random.Random) -> _Scene:
    # Different in colour and in shape, so that "the star" and "the red shape" each mean one thing.
    colours, shapes = dice.sample(list(COLOURS), 2), dice.sample(list(OUTLINES), 2)
    relation, background = dice.choice(list(_RELATIONS)), dice.choice(list(BACKGROUNDS))
    near, far = sorted(dice.sample(range(3), 2))
    line = dice.randrange(3)
    cells = [(line, near), (line, far)] if relation.endswith("of") else [(near, line), (far, line)]
    if relation in ("right of", "below"):
        cells.reverse()
    first, second = (
        _thing(dice, colour, shape, row, column, 7)
        for colour, shape, (row, column) in zip(colours, shapes, cells, strict=True)
    )
    back = _RELATIONS[relation]
    captions = (
        f"{_a(first.name)} {relation} {_a(second.name)}",
        f"{_a(second.name)} {back} {_a(first.name)}",
        f"there is {_a(first.name)} {relation} {_a(second.name)}",
        f"the {first.name} is {relation} the {second.name}",
        f"{_a(first.name)} and {_a(second.name)} on a {background} background",
    )
    questions = (
        Question(text=f"what color is the {first.shape} ?", answers=(first.colour,)),
        Question(text=f"what shape is {second.colour} ?", answers=(second.shape,)),
        Question(
            text=f"what is {relation} the {second.name} ?", answers=(_a(first.name), first.name)
        ),
        Question(text="how many shapes are there ?", answers=("two", "2")),
    )
    return _Scene(
        kind="pair",
        things=(first, second),
        background=background,
        captions=captions,
        questions=questions,
    )


def _thing(
    dice: random.Random, colour: str, shape: str, row: int, column: int, radius_px: int
) -> Thing:
    # Cells are 21 px apart and shapes at most 14 px wide when there are several: two never touch.
    x_px, y_px = (11 + 21 * cell + dice.randint(-2, 2) for cell in (column, row))
    return Thing(colour=colour, shape=shape, x_px=x_px, y_px=y_px, radius_px=radius_px)


def _colour(dice: random.Random) -> str:
    return dice.choice(list(COLOURS))


def _shape(dice: random.Random) -> str:
    return dice.choice(list(OUTLINES))


def _place(row: int, column: int) -> tuple[str, str]:
    """Where a cell of the 3 x 3 grid is: ("at the top left", "top left")."""
    words = f"{_ROWS[row]} {_COLUMNS[column]}".strip()
    return (f"at the {words}", words) if words else ("in the center", "center")


def _a(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _plural(name: str) -> str:
    return f"{name}es" if name.endswith("s") else f"{name}s"
