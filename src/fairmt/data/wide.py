"""Features of many input columns each: texts, words in their order, and pictures."""

from __future__ import annotations

import io
import re
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

N_GRAMS = 1024
"""Input columns of a text."""
WORDS = 128
VOCABULARY = 8192
"""Words that a text is cut to, and numbers that they share."""
PIXELS = 32
"""Side of a picture as the model sees it."""


@dataclass(frozen=True)
class TextFeature:
    """Words and pairs of words, counted into `N_GRAMS` hashed columns of unit length together.

    Nothing is learned from the training rows, and no vocabulary is kept. A missing text is all 0.
    """

    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (N_GRAMS,)

    def encode(self, column: pd.Series) -> np.ndarray:
        """(N, N_GRAMS) float32."""
        from sklearn.feature_extraction.text import HashingVectorizer

        hashing = HashingVectorizer(
            n_features=N_GRAMS, ngram_range=(1, 2), strip_accents="unicode", dtype=np.float32
        )
        found: np.ndarray = hashing.transform(column.fillna("").astype(str)).toarray()
        return found


@dataclass(frozen=True)
class WordsFeature:
    """The first `WORDS` words in their order, each as a hashed number; 0 where there is none."""

    name: str

    @property
    def shape(self) -> tuple[int, ...]:
        return (WORDS,)

    def encode(self, column: pd.Series) -> np.ndarray:
        """(N, WORDS) float32, whole numbers below `VOCABULARY`."""
        found = np.zeros((len(column), WORDS), dtype=np.float32)
        for i, text in enumerate(column.fillna("").astype(str)):
            for j, word in enumerate(re.findall(r"\w+", text.lower())[:WORDS]):
                found[i, j] = 1 + zlib.crc32(word.encode()) % (VOCABULARY - 1)
        return found


@dataclass(frozen=True)
class ImageFeature:
    """Pictures from files or bytes, cut to a square, in three colours between -1 and 1.

    A missing picture is all 0, the middle grey.
    """

    name: str
    size: int = PIXELS

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.size, self.size)

    def encode(self, column: pd.Series) -> np.ndarray:
        """(N, 3·size·size) float32.

        Raises
        ------
        ValueError
            Naming column and row of a picture that cannot be read.
        """
        found = np.zeros((len(column), *self.shape), dtype=np.float32)
        for i, (row, cell) in enumerate(column.items()):
            if isinstance(cell, str | Path | bytes):
                try:
                    found[i] = decode(cell, self.size).transpose(2, 0, 1) / 127.5 - 1.0
                except (OSError, SyntaxError) as error:
                    raise ValueError(
                        f"Feature '{self.name}' in row {row} is no picture that can be read "
                        f"({error}); mend it, or leave the cell empty."
                    ) from error
            elif not pd.isna(cell):
                raise ValueError(
                    f"Feature '{self.name}' in row {row} holds {type(cell).__name__}; expected the "
                    "path of a picture, or its bytes."
                )
        return found.reshape(len(column), -1)


WideFeature = TextFeature | WordsFeature | ImageFeature
KINDS: dict[str, type[TextFeature] | type[WordsFeature] | type[ImageFeature]] = {
    "text": TextFeature,
    "words": WordsFeature,
    "image": ImageFeature,
}


def decode(picture: str | Path | bytes, size: int) -> np.ndarray:
    """A picture as (size, size, 3) uint8, its middle square.

    Raises
    ------
    ImportError
        Without Pillow.
    OSError
        If it cannot be read.
    """
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("Pictures need Pillow: pip install 'fairmt[image]'.") from error
    source: Any = io.BytesIO(picture) if isinstance(picture, bytes) else picture
    with Image.open(source) as opened:
        return np.asarray(ImageOps.fit(opened.convert("RGB"), (size, size)))


def wide_to_dict(feature: WideFeature) -> dict[str, Any]:
    kind = next(name for name, own in KINDS.items() if isinstance(feature, own))
    return {"kind": kind, **asdict(feature)}


def wide_from_dict(config: Mapping[str, Any]) -> WideFeature:
    settings = dict(config)
    return KINDS[settings.pop("kind")](**settings)
