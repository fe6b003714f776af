"""VisualBERT: words and image regions in one BERT (Li et al. 2019, arXiv:1908.03557).

Learns hidden words and whether a caption is of the image; and, where there are questions, to choose their answers.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from components.abilities import CannotAnswer, TextEncoder, Views
from components.config import ConfigError
from components.data.answers import best
from components.models.bert_start import copy_bert
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
from components.objectives.masking import IGNORED, masked_cross_entropy
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
            copy_bert(parts["text"], self)
            if isinstance(parts["text"].module, TextBert):
                self._regions_like_words()

    def loss(self, batch: Batch) -> Loss:
        """Hidden words, matching and, where there are questions, answers, summed; each a part of its own, in nats.

        Micro-batches and workers are weighed by rows: exact for matching and answers, while the words of a part in which
        fewer are hidden count for more than in the whole batch.
        Raises AssertionError for a batch that is not of `batch_spec`.
        """
        return self.view_loss(self.views(batch), batch)

    def views(
        self, batch: Batch, wanted: Collection[str] = (), like: Views | None = None
    ) -> dict[str, Tensor]:
        """Words' states under hidden words, `hidden`, and what the hidden ones are, `tokens`; matching's `logits`; what was
        drawn to be hidden; and, if wanted, where words look in the last block, `attention`.

        Raises AssertionError for a batch that is not of `batch_spec`.
        """
        regions_BND = self.regions(batch.pixels_BCHW, batch.keys_B)
        text_BT, lengths_B, segments_BT = self._hidden_in(batch)
        read_BT, labels_BT = (
            hide(self.config, text_BT) if like is None else (like["read"], like["labels"])
        )
        if self.answering is not None:
            labels_BT = labels_BT.where(batch.second_same_B[:, None], IGNORED)
        looks: list[Tensor] | None = [] if "attention" in wanted else None
        states_BTD = self.encode(read_BT, lengths_B, regions_BND, segments_BT, looks=looks)
        seen = {
            "hidden": states_BTD,
            "real": real(read_BT, lengths_B),
            "read": read_BT,
            "labels": labels_BT,
            "tokens_at": labels_BT != IGNORED,
        }
        seen["tokens"] = self.bert.name_words(states_BTD[seen["tokens_at"]])
        if looks:
            seen["attention"] = looks[0][:, : read_BT.shape[1]]
        if not self.config.two_sentence:
            states_BTD = self.encode(batch.second_BT, batch.second_lengths_B, regions_BND)
        seen["logits"] = self.match_logits(states_BTD)
        if self.answering is not None and batch.answers_BA is not None:
            seen["answers"] = self._answer_logits(batch.tokens_BT, batch.lengths_B, regions_BND)
        return seen

    def view_loss(self, views: Views, batch: Batch) -> Loss:
        """As `loss`."""
        labels_N = views["labels"][views["tokens_at"]]
        parts = {
            "words": masked_cross_entropy(views["tokens"], labels_N),
            "matching": F.cross_entropy(views["logits"], (~batch.second_same_B).long()),
        }
        if "answers" in views:
            parts["answers"] = answer_divergence(views["answers"], batch.answers_BA)
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
        looks: list[Tensor] | None = None,
    ) -> Tensor:
        """(B, T, D): states of the words, after all words and regions saw each other.

        regions_BND: regions as `regions` gives them; None reads the text alone.
        regions_BN: bool, False for regions that are padding.
        looks: as `Bert.run` has it, over words and regions together.
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
        return self.bert.run(torch.cat([x_BTD, seen_BND], dim=1), both_BT, looks)[:, :length]

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

    def _hidden_in(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
        """The text whose words are hidden, its lengths, and its segments where it is two captions."""
        first, second = (
            (batch.tokens_BT, batch.lengths_B),
            (batch.second_BT, batch.second_lengths_B),
        )
        assert all(each is not None for each in second), "batch_spec asks for second captions"
        if self.config.two_sentence:
            both_BT, segments_BT, lengths_B = two_captions(
                *first, *second, sep_id=self.config.sep_id
            )
            return both_BT, lengths_B, segments_BT
        # Where the first text is a question, words are learnt from second captions, and only from those of the image.
        return *(first if self.answering is None else second), None

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
