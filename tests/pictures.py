"""Files of pictures of digits, and what tells them."""

import io

from PIL import Image

import jax_mlp.network
import reference_torch.network
from mlp_workload.predict import image_file
from mlp_workload.predict.digit import find_digit

NETWORKS = {"jax": jax_mlp.network.Network, "torch": reference_torch.network.Network}


def png(picture, kind="PNG", **options):
    """The file's bytes."""
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def seen(content):
    return find_digit(image_file.decode(content, "picture"))
