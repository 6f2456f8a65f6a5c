"""Encoders of texts beyond counted words."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class WordTransformer(nn.Module):
    """A small transformer over words, its weights drawn at random: (B, length) -> (B, width).

    For rows of word numbers, as features of the kind 'words' give them; 0 is nothing. It needs no
    vocabulary and no download, and learns everything from the tasks at hand.
    """

    def __init__(
        self, length: int = 128, vocabulary: int = 8192, width: int = 64, depth: int = 2
    ) -> None:
        super().__init__()
        self.n_inputs, self.n_features, self.vocabulary = length, width, vocabulary
        self.embedding = nn.Embedding(vocabulary, width, padding_idx=0)
        self.position = nn.Parameter(torch.zeros(length, width))
        layer = nn.TransformerEncoderLayer(
            width, 4, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, depth, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        codes = x.long()
        there = codes > 0
        # Attention over nothing is not a number: an empty text keeps its first, blank place.
        hidden = ~there
        hidden[:, 0] = False
        tokens = self.embedding(codes) + self.position
        found: Tensor = self.layers(tokens, src_key_padding_mask=hidden)
        there = (~hidden).unsqueeze(2).to(found.dtype)
        return (found * there).sum(1) / there.sum(1)


class PretrainedTexts(nn.Module):
    """A language model of `transformers` over token numbers: (B, length) -> (B, hidden size).

    Parameters
    ----------
    model : a loaded model (``AutoModel.from_pretrained(name)``).
    length : int
        Tokens of a text.
    padding : int
        The number that fills up short texts (``tokenizer.pad_token_id``).
    """

    def __init__(self, model: nn.Module, length: int, padding: int = 0) -> None:
        super().__init__()
        config: Any = model.config
        self.model, self.n_inputs, self.padding = model, length, padding
        self.n_features = int(config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        codes = x.long()
        there = (codes != self.padding).long()
        found = self.model(input_ids=codes, attention_mask=there).last_hidden_state
        weight = there.unsqueeze(2).to(found.dtype)
        mean: Tensor = (found * weight).sum(1) / weight.sum(1).clamp(min=1)
        return mean
