"""The features: shapes, unit length, any size, saving; and what the bundled ones know."""

from dataclasses import replace

import pytest
import torch

from studio.evaluation.features import NOTE, ImageTextFeatures


def test_shapes_and_unit_length(features, pictures):
    vectors = features.encode_images(pictures)
    assert vectors.shape == (8, 8)
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(8))
    small = features.encode_images(pictures, batch_size=3)
    assert torch.allclose(small, vectors, atol=1e-6)
    assert features.encode_images(pictures[:, :, :7, :9]).shape == (8, 8)
    captions = features.encode_captions(["cat", "sun"])
    assert torch.allclose(captions.norm(dim=-1), torch.ones(2))
    assert features.retrieve(vectors, 3).shape == (8, 3)


def test_training_outputs_and_gradients(features, pictures):
    features.train()
    _, scores, backgrounds = features(pictures)
    assert scores.shape == (8, 6) and backgrounds.shape == (8, 2)
    (scores.logsumexp(-1).sum() + backgrounds.square().sum()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in features.parameters())


def test_a_picture_alone_equals_it_in_a_batch(features, pictures):
    together = features.encode_images(pictures)
    assert torch.allclose(features.encode_images(pictures[2:3]), together[2:3], atol=1e-6)


def test_retrieve_takes_the_nearest(features):
    assert features.retrieve(torch.eye(8)[[4, 1]], 1).flatten().tolist() == [4, 1]


def test_background_words_are_words(features, pictures):
    words = features.background_words(pictures)
    assert len(words) == 8 and set(words) <= {"red", "white"}


def test_unknown_name_is_refused(features):
    with pytest.raises(ValueError, match=r"name 'dog' is none of the 6"):
        features.encode_captions(["cat", "dog"])


def test_saves_and_loads(features, pictures, tmp_path):
    features.save_pretrained(tmp_path)
    again = ImageTextFeatures.from_pretrained(tmp_path).eval()
    assert again.names == features.names
    assert torch.equal(again.gallery, features.gallery)
    found, expected = again.encode_images(pictures), features.encode_images(pictures)
    assert torch.allclose(found, expected, atol=1e-5)


def test_bundled_features_know_the_emoji(bundled, emoji_font):
    from studio.data.colors import without_color
    from studio.data.emoji import Scene, draw

    bundled("emoji-features")
    model = ImageTextFeatures.bundled()
    assert model.dtype == torch.float32 and "not Inception" in NOTE
    names = model.names[7::13]
    scenes = [Scene((name,), background=("teal",)) for name in names]
    with torch.no_grad():
        plain = model.encode_images(torch.stack([draw(s, 64) for s in scenes]))
        other = [replace(s, tint="green", background=("pink",)) for s in scenes]
        tinted = model.encode_images(torch.stack([draw(s, 128) for s in other]))
    found = [model.names[i] for i in model.retrieve(plain, 1).flatten().tolist()]
    assert sum(a == b for a, b in zip(found, names, strict=True)) >= 0.9 * len(names)
    found = [without_color(model.names[i]) for i in model.retrieve(tinted, 1).flatten().tolist()]
    right = sum(a == without_color(b) for a, b in zip(found, names, strict=True))
    assert right >= 0.8 * len(names)
