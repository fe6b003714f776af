"""In how many images' references each n-gram stands: what CIDEr weighs words by.

Taken from the evaluated references by default, and then a score depends on which images are evaluated. A saved record
of a larger set makes scores of different subsets comparable.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from components.metrics.metric import MetricInputError
from components.metrics.ngrams import (
    HIGHEST_ORDER,
    Grams,
    Ints,
    Sentences,
    Tokens,
    add_up,
    compiled,
    count_grams,
    encode,
    find,
)
from components.metrics.sound_frequencies import refuse_unsound


@dataclass(frozen=True)
class DocumentFrequencies:
    """Frequencies of the 1- to 4-grams in the references of `images` images.

    An n-gram is the number of its first n - 1 words (among this record's (n-1)-grams) times the number of words, plus
    its last word's number; `keys` are sorted, `counts` stand beside them.
    """

    images: int
    words: tuple[str, ...]
    keys: tuple[Ints, ...]
    """One array an order."""
    counts: tuple[Ints, ...]
    """One array an order, each at least 1 and at most `images`."""

    @cached_property
    def digest(self) -> str:
        """sha256 of the record's bytes: say it beside every score made with it."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @cached_property
    def number(self) -> dict[str, int]:
        """Word -> its number."""
        return {word: index for index, word in enumerate(self.words)}

    @cached_property
    def _first(self) -> list[Ints]:
        """For each order where the keys of each parent start, and where the last one's end."""
        parents = [1, *(len(keys) for keys in self.keys[:-1])]
        return [
            np.searchsorted(keys, np.arange(count + 1) * len(self.words))
            for keys, count in zip(self.keys, parents, strict=True)
        ]

    def to_bytes(self) -> bytes:
        """The record as a NumPy archive without pickles; equal records give equal bytes."""
        text = "\n".join(self.words).encode("utf-8", "surrogatepass")
        arrays = {"images": np.array(self.images), "words": np.frombuffer(text, np.uint8)}
        for order in range(HIGHEST_ORDER):
            arrays[f"keys_{order + 1}"] = self.keys[order]
            arrays[f"counts_{order + 1}"] = self.counts[order]
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, **arrays)
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, saved: bytes) -> DocumentFrequencies:
        """What `to_bytes` saved. Raises MetricInputError if `saved` is something else, or counts what cannot be."""
        orders = range(1, HIGHEST_ORDER + 1)
        try:
            with np.load(io.BytesIO(saved), allow_pickle=False) as arrays:
                text = arrays["words"].tobytes().decode("utf-8", "surrogatepass")
                record = cls(
                    images=int(arrays["images"]),
                    words=tuple(text.split("\n")) if text else (),
                    keys=tuple(arrays[f"keys_{order}"] for order in orders),
                    counts=tuple(arrays[f"counts_{order}"] for order in orders),
                )
        except Exception as error:  # whatever NumPy or zipfile says of foreign bytes
            raise MetricInputError(
                f"These {len(saved)} bytes are no saved DocumentFrequencies ({error}); make them with to_bytes()."
            ) from error
        refuse_unsound(record)
        return record

    def look_up(self, sentences: Sentences, grams: Sequence[Grams]) -> list[Ints]:
        """The frequency of every n-gram of another evaluation, one array an order; 0 where it is unknown."""
        kernels = compiled()
        word_W = np.array([self.number.get(word, -1) for word in sentences.words], np.int64)
        known_G = np.zeros(1, np.int64)  # of the empty 0-gram, every word's parent
        found = []
        for order, keys, counts in zip(grams, self.keys, self.counts, strict=True):
            parent_G, last_G = known_G[order.parent_G], word_W[order.last_G]
            if kernels:
                first = self._first[order.order - 1]
                known_G = kernels.look_up(keys, first, parent_G, last_G, len(self.words))
            else:
                whole_G = (parent_G >= 0) & (last_G >= 0)
                known_G = find(keys, np.where(whole_G, parent_G * len(self.words) + last_G, -1))
            found.append(np.where(known_G >= 0, counts[known_G], 0) if len(counts) else known_G * 0)
        return found


def document_frequencies(references: Sequence[Sequence[Tokens]]) -> DocumentFrequencies:
    """Count over the references of each image; a record to save and score other images with.

    Raises MetricInputError if there is no image or an image without references.
    """
    sentences = encode([[]] * len(references), references, split_spaces=True)
    return frequencies_from(sentences, count_grams(sentences))


def frequencies_from(sentences: Sentences, grams: Sequence[Grams]) -> DocumentFrequencies:
    """The same from n-grams already counted; those that only candidates have are left out."""
    words = len(sentences.words)
    kept_G = np.zeros(1, np.int64)  # of the empty 0-gram, every word's parent
    keys, counts = [], []
    for order in grams:
        count_G = in_references(sentences, order)
        found = count_G > 0
        # Where a reference has an n-gram it has its first words too, so no parent is left out.
        keys.append((kept_G[order.parent_G] * words + order.last_G)[found])
        counts.append(count_G[found])
        kept_G = np.cumsum(found) - 1
    return DocumentFrequencies(
        images=sentences.images, words=sentences.words, keys=tuple(keys), counts=tuple(counts)
    )


def merge(records: Sequence[DocumentFrequencies]) -> DocumentFrequencies:
    """One record of several that were counted over different images; whole numbers, so in any order the same counts.

    Raises MetricInputError if there is none.
    """
    if not records:
        raise MetricInputError("No record of document frequencies to merge; give at least one.")
    number: dict[str, int] = {}
    word_maps = [
        np.array([number.setdefault(word, len(number)) for word in record.words], np.int64)
        for record in records
    ]
    parent_maps = [np.zeros(1, np.int64)] * len(records)
    keys, counts = [], []
    for order in range(HIGHEST_ORDER):
        mapped = [
            parent[record.keys[order] // max(len(record.words), 1)] * len(number)
            + word[record.keys[order] % max(len(record.words), 1)]
            for record, parent, word in zip(records, parent_maps, word_maps, strict=True)
        ]
        distinct, inverse = np.unique(np.concatenate(mapped), return_inverse=True)
        together = np.concatenate([record.counts[order] for record in records])
        keys.append(distinct)
        counts.append(add_up(together, inverse, len(distinct)).astype(np.int64))
        parent_maps = np.split(inverse, np.cumsum([len(each) for each in mapped])[:-1])
    return DocumentFrequencies(
        images=sum(record.images for record in records),
        words=tuple(number),
        keys=tuple(keys),
        counts=tuple(counts),
    )


def in_references(sentences: Sentences, grams: Grams) -> Ints:
    """For each n-gram, how many images have it in a reference; 0 for those only candidates have."""
    kernels = compiled()
    return kernels.in_references(sentences, grams) if kernels else count_images(sentences, grams)


def count_images(sentences: Sentences, grams: Grams) -> Ints:
    """The same with NumPy alone."""
    total = max(len(grams.last_G), 1)
    image_P = sentences.image_S[grams.reference.sentence_P]
    # Sorted, as np.unique alone would hash: three times slower on keys that lie so evenly.
    key_P = np.sort(image_P * total + grams.reference.gram_P)
    once = key_P[np.diff(key_P, prepend=-1) > 0]
    return np.bincount(once % total, minlength=len(grams.last_G))
