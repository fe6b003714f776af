"""The word vectors of a text part, whichever layout it has."""

from __future__ import annotations

from torch import nn

from components.config import ConfigError


def word_vectors(text: nn.Module) -> nn.Embedding:
    """The table of a text part's word vectors: of a BERT, or of a language model in transformers' layout. Raises
    ConfigError for others."""
    if isinstance(words := getattr(getattr(text, "bert", None), "words", None), nn.Embedding):
        return words
    if hasattr(model := getattr(text, "model", None), "get_input_embeddings"):
        found: nn.Embedding = model.get_input_embeddings()
        return found
    raise ConfigError(
        f"text_by: words, and a {type(text).__name__} has no word vectors that are known; set text_by: states."
    )
