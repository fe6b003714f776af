"""VisualBERT: words and image regions in one BERT (Li et al. 2019, arXiv:1908.03557).

Learns hidden words and whether a caption is of the image; and, where there are questions, to choose their answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import CannotAnswer, TextEncoder
from components.config import ConfigError
from components.data.answers import best
from components.models.bert_texts import append_mask, two_captions
from components.models.groups import by_shape
from components.models.parts import NO_PARTS, Part
from components.models.regions import Standardised, region_slot
from components.models.text_bert import (
    Bert,
    BertConfig,
    TextBert,
    hide,
    initialise_like_bert,
    real,
)
from components.objectives.answers import answer_divergence
from components.objectives.masking import IGNORED
from components.records import Batch, BatchSpec, Loss

if TYPE_CHECKING:
    from components.data.text import Tokenizer
    from components.records import Row

FITS, OTHER = 0, 1
"""Classes of the matching head, numbered as BERT's "is the next sentence": 0 says the caption is of the image."""


class NoAnswers(CannotAnswer):
    """A question for a model that learnt no answers."""


@dataclass(frozen=True, kw_only=True)
class VisualBertConfig(BertConfig):
    """What a VisualBERT is made of; the defaults are the tiny preset."""

    vision: Literal["part", "lite0", "conv", "resnet50"] = "part"
    """Whose map's cells are the regions: the frozen tower of the part "vision", the frozen pretrained Lite0, or a tower
    that learns, from which matching does not come off the ground in a short training."""
    image_px: int = 64
    """Side of the square input image, in pixels."""
    vision_widths: tuple[int, ...] = (32, 64, 128)
    """Channels of each stage of "conv"; the map's stride is 4 and doubles with every further stage."""
    standardise_batches: int = 20
    """Batches whose regions give the mean and deviation of each channel; 0 leaves regions as they come."""
    visual_segment: Literal[0, 1] = 0
    """Segment of regions: 0 in the paper's code, 1 by transformers' default; must be what a checkpoint was made with."""
    two_sentence: bool = False
    """Matching judges a caption that stands after one of the image, both with words hidden (the paper); or it judges
    one caption alone and whole, and words are hidden in another reading. Where an image's captions say the same in
    other words, two are matched without a look at the image."""
    sep_id: int = 5
    """The token between two captions."""
    most_answers: int = 0
    """How many of the training questions' answers can be given, the commonest; 0 learns no questions, VQA has 3,129."""
    answers: tuple[str, ...] = ()
    """The answers that can be given; set from the training data."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # JSON knows no tuples; a config must equal itself after a checkpoint.
        object.__setattr__(self, "vision_widths", tuple(self.vision_widths))
        object.__setattr__(self, "answers", tuple(self.answers))
        longest = 2 * self.max_tokens - 1 if self.two_sentence else self.max_tokens + 1
        if longest > self.positions:
            raise ConfigError(
                f"positions={self.positions} hold no {longest} tokens, which max_tokens={self.max_tokens} can make "
                f"with two_sentence={self.two_sentence}; raise positions."
            )
        if self.two_sentence and self.most_answers:
            raise ConfigError(
                "two_sentence needs a caption where most_answers puts a question; set two_sentence to false, or "
                "most_answers to 0."
            )

    def fitted(self, rows: Sequence[Row], tokenizer: Tokenizer) -> Self:
        """With the tokenizer's vocabulary and special ids, and the commonest answers of the training questions."""
        counts = Counter(
            best(question.answers) for row in rows for question in row.sample.questions
        )
        common = sorted(counts, key=lambda answer: (-counts[answer], answer))
        fitted = super().fitted(rows, tokenizer)
        answers = tuple(common[: self.most_answers])
        return replace(fitted, answers=answers, sep_id=tokenizer.sep_id)

    @classmethod
    def small(cls) -> Self:
        """BERT-Mini's shape over the pretrained Lite0."""
        return cls(vision="lite0", image_px=224, width=256, layers=4, max_tokens=40, positions=128)

    @classmethod
    def paper(cls) -> Self:
        """BERT-Base; the 100 cells of a ResNet-50 at 320 px stand for its 100 regions, as wide as they."""
        return cls(
            vision="resnet50", image_px=320, width=768, layers=12, heads=12, max_tokens=128,
            positions=512, vocab_size=30522, two_sentence=True, standardise_batches=0,
            mask_id=103, sep_id=102, first_word_id=999,
        )  # fmt: skip


class VisualBert(nn.Module):
    """Learns what words and regions say of each other, by hidden words and by matching."""

    Config: ClassVar[type[VisualBertConfig]] = VisualBertConfig
    PARTS: ClassVar[Mapping[str, type]] = {"vision": nn.Module}
    STARTS: ClassVar[Mapping[str, type]] = {"text": TextEncoder}
    TOKENIZER: ClassVar[str | None] = "text"

    def __init__(self, config: VisualBertConfig, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Raises ConfigError where `vision` is "part" and none was handed."""
        super().__init__()
        self.config = config
        width = config.width
        self.vision = region_slot(
            config.vision, config.image_px, config.vision_widths, parts, "VisualBERT"
        )
        self.standardised = Standardised(self.vision.map_width, config.standardise_batches)
        self.bert = Bert(config)
        self.inward = nn.Linear(self.vision.map_width, width)
        self.visual_places = nn.Embedding(config.positions, width)
        self.visual_segments = nn.Embedding(2, width)
        self.pooler = nn.Linear(width, width)
        self.matching = nn.Linear(width, 2)
        self.answering = nn.Linear(width, len(config.answers)) if config.answers else None
        for layer in (self.inward, self.pooler, self.matching, self.answering):
            if layer is not None:
                layer.apply(initialise_like_bert)
        self._regions_like_words()

    def batch_spec(self) -> BatchSpec:
        config = self.config
        return BatchSpec(
            image_px=config.image_px, max_tokens=config.max_tokens, second_caption=True,
            answers=config.answers,
        )  # fmt: skip

    def initialise(self, parts: Mapping[str, Part] = NO_PARTS) -> None:
        """Load a frozen tower's weights, and copy those of "text", if there are such: a BERT's, or another VisualBERT's,
        which then goes on with other tasks.

        Raises PretrainedMissing, and ConfigError for a text model that does not fit.
        """
        if self.config.vision != "part":
            self.vision.initialise()
        if "text" in parts:
            _copy_start(parts["text"], self)
            if isinstance(parts["text"].module, TextBert):
                self._regions_like_words()

    def loss(self, batch: Batch) -> Loss:
        """Hidden words, matching and, where there are questions, answers, summed; each a part of its own, in nats.

        Micro-batches and workers are weighed by rows: exact for matching and answers, while the words of a part in which
        fewer are hidden count for more than in the whole batch.
        Raises AssertionError for a batch that is not of `batch_spec`.
        """
        second_same_B = batch.second_same_B
        assert second_same_B is not None, "batch_spec asks for second captions"
        regions_BND = self.regions(batch.pixels_BCHW, batch.keys_B)
        words, matching_BTD = self._words_and_matching(batch, second_same_B, regions_BND)
        parts = {
            "words": words,
            "matching": F.cross_entropy(self.match_logits(matching_BTD), (~second_same_B).long()),
        }
        if self.answering is not None and batch.answers_BA is not None:
            logits_BA = self._answer_logits(batch.tokens_BT, batch.lengths_B, regions_BND)
            parts["answers"] = answer_divergence(logits_BA, batch.answers_BA)
        total = torch.stack(list(parts.values())).sum()
        return Loss(total, {name: part.detach() for name, part in parts.items()})

    def regions(self, pixels_BCHW: Tensor, keys_B: Tensor | None = None) -> Tensor:
        """(B, N, the tower's width): cells of the image's map, standardised."""
        map_BND, _ = self.vision.encode(pixels_BCHW, keys_B)
        return self.standardised(map_BND)

    def encode(
        self,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        regions_BND: Tensor | None,
        segments_BT: Tensor | None = None,
        regions_BN: Tensor | None = None,
    ) -> Tensor:
        """(B, T, D): states of the words, after all words and regions saw each other.

        regions_BND: regions as `regions` gives them; None reads the text alone.
        regions_BN: bool, False for regions that are padding.
        """
        x_BTD = self.bert.embed(tokens_BT, segments_BT)
        mask_BT, length = real(tokens_BT, lengths_B), tokens_BT.shape[1]
        if regions_BND is None:
            return self.bert.run(x_BTD, mask_BT)
        # Every region stands at place 0: they have no order.
        segment_D = self.visual_segments.weight[self.config.visual_segment]
        seen_BND = self.inward(regions_BND) + self.visual_places.weight[0] + segment_D
        if regions_BN is None:
            regions_BN = mask_BT.new_ones(seen_BND.shape[:2])
        both_BT = torch.cat([mask_BT, regions_BN], dim=1)
        return self.bert.run(torch.cat([x_BTD, seen_BND], dim=1), both_BT)[:, :length]

    def match_logits(self, states_BTD: Tensor) -> Tensor:
        """(B, 2) over FITS and OTHER, read from the first token through the pooler."""
        return self.matching(torch.tanh(self.pooler(states_BTD[:, 0])))

    def match(
        self,
        pixels_BCHW: Tensor,
        tokens_BT: Tensor,
        lengths_B: Tensor,
        keys_B: Tensor | None = None,
    ) -> Tensor:
        """(B,) probability that text i is of image i.

        With `two_sentence` no caption of the image is known, and the text stands alone as training never showed it.
        """
        states_BTD = self.encode(tokens_BT, lengths_B, self.regions(pixels_BCHW, keys_B))
        return self.match_logits(states_BTD).float().softmax(dim=-1)[:, FITS]

    def encode_texts(self, tokens_BT: Tensor, lengths_B: Tensor) -> Tensor:
        """(B, D): the mean of each text's states without an image, not normalised."""
        states_BTD = self.encode(tokens_BT, lengths_B, None)
        return (states_BTD * real(tokens_BT, lengths_B)[..., None]).sum(1) / lengths_B[:, None]

    def answer(
        self,
        pixels_BCHW: Tensor,
        questions: Sequence[str],
        tokenizer: Tokenizer,
        keys_B: Tensor | None = None,
    ) -> list[str]:
        """The likeliest known answer to each question.

        Raises CannotAnswer if the model learnt none: `most_answers` was 0, or its source has no questions.
        """
        if self.answering is None:
            raise CannotAnswer(
                "This VisualBERT learnt no answers. Train one with most_answers above 0 on a source with questions."
            )
        tokens_BT, lengths_B = tokenizer.encode(list(questions), self.config.max_tokens)
        there = self.inward.weight.device
        regions_BND = self.regions(pixels_BCHW, keys_B)
        logits_BA = self._answer_logits(tokens_BT.to(there), lengths_B.to(there), regions_BND)
        return [self.config.answers[number] for number in logits_BA.argmax(dim=1).tolist()]

    def param_groups(self) -> Sequence[Mapping[str, Any]]:
        """Matrices decay; norms and biases do not. The pooler learns, which the released code forgets."""
        return by_shape(self)

    def after_step(self) -> None:
        """Nothing to clamp."""

    def _words_and_matching(
        self, batch: Batch, second_same_B: Tensor, regions_BND: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The loss of hidden words, and the states that matching is read from."""
        second_BT, second_lengths_B = batch.second_BT, batch.second_lengths_B
        assert second_BT is not None and second_lengths_B is not None, "batch_spec asks for them"
        first = batch.tokens_BT, batch.lengths_B
        if self.config.two_sentence:
            both_BT, segments_BT, lengths_B = two_captions(
                *first, second_BT, second_lengths_B, sep_id=self.config.sep_id
            )
            read_BT, labels_BT = hide(self.config, both_BT)
            states_BTD = self.encode(read_BT, lengths_B, regions_BND, segments_BT)
            return self.bert.mask_loss(states_BTD, labels_BT), states_BTD
        # Where the first text is a question, words are learnt from second captions, and only from those of the image.
        asked = self.answering is not None
        caption_BT, lengths_B = (second_BT, second_lengths_B) if asked else first
        read_BT, labels_BT = hide(self.config, caption_BT)
        if asked:
            labels_BT = labels_BT.where(second_same_B[:, None], IGNORED)
        words = self.bert.mask_loss(self.encode(read_BT, lengths_B, regions_BND), labels_BT)
        return words, self.encode(second_BT, second_lengths_B, regions_BND)

    def _answer_logits(self, tokens_BT: Tensor, lengths_B: Tensor, regions_BND: Tensor) -> Tensor:
        asked_BT, lengths_B = append_mask(tokens_BT, lengths_B, self.config.mask_id)
        states_BTD = self.encode(asked_BT, lengths_B, regions_BND)
        assert self.answering is not None, "callers checked"
        rows_B = torch.arange(len(asked_BT), device=asked_BT.device)
        return self.answering(states_BTD[rows_B, lengths_B - 2])

    @torch.no_grad()
    def _regions_like_words(self) -> None:
        """Regions' places and segments start as those of words (the paper's `special_visual_initialize`)."""
        self.visual_places.weight.copy_(self.bert.places.weight)
        self.visual_segments.weight.copy_(self.bert.segments.weight)


def _copy_start(part: Part, model: VisualBert) -> None:
    """Copy a TextBert's weights, or all but the tower and the answers of a VisualBERT's.

    Raises ConfigError, nothing copied, for another model or other sizes.
    """
    named = f"The text model {part.origin.kind}:{part.origin.name}"
    if not isinstance(part.module, TextBert | VisualBert):
        raise ConfigError(
            f"{named} is a {type(part.module).__name__}; VisualBERT starts from a TextBert or a VisualBERT."
        )
    whole = isinstance(part.module, VisualBert)
    theirs, ours = (
        {name: value for name, value in made.state_dict().items() if _is_start(name, whole)}
        for made in (part.module, model)
    )
    unlike = [
        f"{name} {tuple(theirs[name].shape) if name in theirs else 'missing'}"
        for name, value in ours.items()
        if name not in theirs or theirs[name].shape != value.shape
    ] + sorted(theirs.keys() - ours.keys())
    if unlike:
        raise ConfigError(
            f"{named} does not fit: {unlike[0]} of {len(unlike)} tensors. Give both configs the same width, layers, "
            "heads, positions and vocabulary."
        )
    heads = part.module.config.heads, model.config.heads
    if heads[0] != heads[1]:
        raise ConfigError(
            f"{named} has {heads[0]} heads, VisualBERT {heads[1]}; give both the same."
        )
    with torch.no_grad():
        for name, value in ours.items():
            value.copy_(theirs[name])


def _is_start(name: str, whole: bool) -> bool:
    # Statistics of regions belong to the tower they were looked at with.
    own = ("vision.", "answering.", "standardised.")
    return not name.startswith(own) if whole else name.startswith("bert.")
