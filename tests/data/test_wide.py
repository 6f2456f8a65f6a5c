"""Texts and pictures as features, and the encoders that read them."""

from __future__ import annotations

import io
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

from fairmt import FairMTLearner
from fairmt.data import Schema
from fairmt.data.wide import ImageFeature, TextFeature, WordsFeature
from fairmt.models import (
    MLP,
    FeatureAttention,
    Joined,
    PretrainedImages,
    PretrainedTexts,
    ResidualNetwork,
    WordTransformer,
    encoder_for,
)
from fairmt.tasks import Classification, Regression

Image = pytest.importorskip("PIL.Image")


def picture(colour: tuple[int, int, int], size: tuple[int, int] = (10, 6)) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", size, colour).save(stream, "PNG")
    return stream.getvalue()


# -- features ----------------------------------------------------------------------------------


def test_a_picture_is_its_middle_square_between_minus_one_and_one(tmp_path: Path) -> None:
    (tmp_path / "b.png").write_bytes(picture((0, 0, 255)))
    cells = pd.Series([picture((255, 0, 51)), str(tmp_path / "b.png"), None], dtype=object)
    found = ImageFeature("photo", 4).encode(cells).reshape(3, 3, 4, 4)
    np.testing.assert_allclose(found[0, :, 1, 2], [1.0, -1.0, -0.6], atol=1e-6)
    np.testing.assert_allclose(found[1, :, 3, 3], [-1.0, -1.0, 1.0])
    assert not found[2].any()


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        (b"nothing", "Feature 'photo' in row r is no picture"),
        ("/nowhere/at/all.png", "Feature 'photo' in row r is no picture"),
        (3.5, "Feature 'photo' in row r holds float"),
    ],
)
def test_what_is_no_picture_is_named_with_its_row(cell: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageFeature("photo").encode(pd.Series([cell], index=["r"], dtype=object))


def test_equal_texts_are_equal_and_words_count_whatever_the_case() -> None:
    found = TextFeature("t").encode(pd.Series(["Good day", "good DAY", "day", None]))
    np.testing.assert_array_equal(found[0], found[1])
    assert 0 < found[0] @ found[2] < 1
    assert not found[3].any()
    words = WordsFeature("t").encode(pd.Series(["Good day", "day good", None]))
    assert words[0, 0] == words[1, 1] > 0
    assert words[0, 1] == words[1, 0] > 0
    assert not words[:, 2:].any()
    assert not words[2].any()


# -- encoders ----------------------------------------------------------------------------------


def people(n: int = 240) -> pd.DataFrame:
    random = np.random.default_rng(0)
    y = random.integers(0, 2, n)
    return pd.DataFrame(
        {
            "age": random.normal(40, 10, n),
            "town": random.choice(["a", "b"], n),
            "note": np.where(y == 1, "fine and well", "ill and tired"),
            "photo": [picture((200, 0, 0) if v else (0, 200, 0)) for v in y],
            "sex": random.choice(["m", "w"], n),
            "y": np.where(y == 1, "yes", "no"),
            "z": y + random.normal(0, 0.1, n),
        }
    )


TASKS = (Classification("y", ("no", "yes")), Regression("z"))
KINDS = {"age": "numeric", "town": "categorical"}


@pytest.mark.parametrize("encoder", ["mlp", "attention"])
@pytest.mark.parametrize("wide", [{"note": "text"}, {"note": "words"}, {"photo": "image"}])
def test_a_learner_reads_texts_and_pictures(
    encoder: str, wide: dict[str, str], tmp_path: Path
) -> None:
    frame = people()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner = FairMTLearner(
            TASKS,
            ["sex"],
            features=KINDS | wide,
            encoder=encoder,
            widths=(16, 8),
            batch_size=32,
            learning_rate=1e-2,
            epochs=4,
            path_epochs=1,
            method="plain",
        ).fit(frame)
    assert (learner.predict(frame)["y"] == frame["y"]).mean() > 0.9
    learner.save(tmp_path / "m")
    again = FairMTLearner.load(tmp_path / "m")
    pd.testing.assert_frame_equal(learner.predict(frame), again.predict(frame))


def test_the_encoder_of_a_table_reads_all_of_its_columns() -> None:
    frame = people(60)
    kinds = KINDS | {"note": "text", "photo": "image"}
    schema = Schema.infer(frame, TASKS, ["sex"], features=kinds)
    again = Schema.from_dict(schema.to_dict())
    assert again == schema
    table = schema.encode(frame)
    assert table.features.shape[1] == schema.n_inputs == len(schema.input_names)
    for kind in ("mlp", "attention"):
        encoder = encoder_for(schema, kind)
        assert isinstance(encoder, Joined)
        assert encoder.n_inputs == schema.n_inputs
        x = table.features.clone().requires_grad_()
        z = encoder(x)
        assert z.shape == (60, encoder.n_features)
        z.square().sum().backward()
        assert x.grad is not None
        assert (x.grad.abs().sum(0) > 0).float().mean() > 0.9
    with pytest.raises(ValueError, match="encoder must be one of"):
        encoder_for(schema, "forest")


def test_attention_depends_on_features_not_on_their_order() -> None:
    torch.manual_seed(0)
    one = FeatureAttention([2, 1, 3], 16)
    two = FeatureAttention([3, 2, 1], 16)
    two.load_state_dict(one.state_dict() | {
        f"maps.{i}.{part}": one.state_dict()[f"maps.{j}.{part}"]
        for i, j in enumerate((2, 0, 1)) for part in ("weight", "bias")
    })  # fmt: skip
    x = torch.randn(5, 6)
    torch.testing.assert_close(one(x), two(x[:, [3, 4, 5, 0, 1, 2]]), rtol=1e-4, atol=1e-5)


def test_predictions_do_not_depend_on_who_else_is_predicted() -> None:
    torch.manual_seed(0)
    encoders: list[nn.Module] = [
        ResidualNetwork((3, 8, 8), (8, 16)),
        WordTransformer(12, 50, 16),
        FeatureAttention([1, 2], 16),
    ]
    for encoder in encoders:
        x = torch.randint(0, 40, (4, encoder.n_inputs)).float()  # type: ignore[arg-type]
        torch.testing.assert_close(encoder(x)[:1], encoder(x[:1]), rtol=1e-4, atol=1e-5)


def test_blanks_after_the_last_word_say_nothing() -> None:
    torch.manual_seed(0)
    encoder = WordTransformer(8, 50, 16).eval()
    text = torch.tensor([[5.0, 9.0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        first = encoder(text)
        encoder.position[4:] += 3.0
        torch.testing.assert_close(encoder(text), first)
        assert encoder(torch.zeros(1, 8)).isfinite().all()


def test_models_of_transformers_are_encoders() -> None:
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
             "intermediate_size": 16}  # fmt: skip
    torch.manual_seed(0)
    texts = PretrainedTexts(
        transformers.BertModel(transformers.BertConfig(vocab_size=30, **small)), 6
    ).eval()
    codes = torch.tensor([[4.0, 7.0, 0, 0, 0, 0], [4.0, 7.0, 3.0, 2.0, 1.0, 1.0]])
    found = texts(codes)
    assert found.shape == (2, texts.n_features) == (2, 16)
    longer = PretrainedTexts(texts.model, 4).eval()
    torch.testing.assert_close(longer(codes[:1, :4]), found[:1], rtol=1e-4, atol=1e-5)
    pictures = PretrainedImages(
        transformers.ViTModel(transformers.ViTConfig(image_size=8, patch_size=4, **small)),
        (3, 8, 8),
    )
    assert pictures(torch.randn(2, 3 * 8 * 8)).shape == (2, pictures.n_features)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FeatureAttention([2, 0]), "Every feature needs an input column"),
        (lambda: FeatureAttention([2], 10), "width must be a multiple of heads"),
        (lambda: ResidualNetwork((3, 8)), "shape must be"),
        (lambda: ResidualNetwork((3, 8, 8), (12,)), "widths must be multiples of 8"),
        (lambda: MLP(3, ()), "at least one layer"),
    ],
)
def test_shapes_that_cannot_be_are_refused(make: object, message: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError, match=message):
        make()
