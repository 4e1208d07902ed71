import pytest
import torch


def test_classes_become_pictures(class_pipe, seeded):
    out = class_pipe([0, 4], num_images_per_prompt=2, generator=seeded(1, 2, 3, 4))
    assert len(out.images) == 4 and out.tokens.shape == (4, 16)
    alone = class_pipe(4, generator=seeded(3))
    assert torch.equal(alone.tokens[0], out.tokens[2])
    *previews, last = class_pipe.stream(4, generator=seeded(3), preview_interval=1)
    assert len(previews) == 4 and torch.equal(last.tokens, alone.tokens)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (5, "class_labels 5 must be a whole number from 0 to 4"),
        (-1, "class_labels -1"),
        ([1, 1.5], "class_labels 1.5"),
        ([], "class_labels must be a class or a list"),
        ("cat", "class_labels 'c'"),
        (True, "class_labels True"),
    ],
)
def test_bad_labels_are_one_line(class_pipe, labels, message):
    with pytest.raises(ValueError, match=message):
        class_pipe(labels)
