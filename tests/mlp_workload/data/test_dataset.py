"""A data set of images and labels that fit together is taken, any other refused in one line."""

from dataclasses import replace

import numpy as np
import pytest

from mlp_workload.errors import UserError


@pytest.mark.parametrize(("part", "name"), [("train", "training"), ("test", "test")])
@pytest.mark.parametrize("wrong", [-1, 3, 200])
def test_labels_are_classes(part, name, wrong, digits):
    examples = getattr(digits, part)
    labels = examples.labels.copy()
    labels[7] = wrong
    with pytest.raises(UserError, match=f"^digits: {name} label 7 is {wrong}, expected 0 to 2$"):
        replace(digits, **{part: replace(examples, labels=labels)})


@pytest.mark.parametrize(("part", "name"), [("train", "training"), ("test", "test")])
def test_images_and_labels_fit_together(part, name, digits):
    examples = getattr(digits, part)
    for changed, message in (
        ({"labels": examples.labels[1:]}, rf"{len(examples)} {name} images but {len(examples) - 1} labels$"),
        ({"images": examples.images.astype(np.float32)}, rf"{name} images must be grey uint8 .*, got float32"),
        ({"images": examples.images[:0], "labels": examples.labels[:0]}, rf"the {name} set is empty"),
        ({"images": examples.images[:, 1:]}, "training images are .*, test images"),
    ):
        with pytest.raises(UserError, match=f"^digits: .*{message}"):
            replace(digits, **{part: replace(examples, **changed)})
