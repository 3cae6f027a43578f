"""The port to Flax NNX."""

import jax
from flax import nnx

from examples.ports.batch_norm import BatchNorm


def conv(in_channels: int, out_channels: int, size: int, stride: int, rngs: nnx.Rngs) -> nnx.Conv:
    """Returns a convolution padded as torch's; "SAME" would pad less on the left where the stride is 2."""
    return nnx.Conv(
        in_channels, out_channels, (size, size), strides=stride, padding=size // 2, use_bias=False, rngs=rngs
    )


def norm(channels: int, rngs: nnx.Rngs) -> BatchNorm:
    """Returns a BatchNorm with torch's momentum of 0.1, which is what a batch adds; Flax's is what is kept."""
    return BatchNorm(channels, momentum=0.9, epsilon=1e-5, rngs=rngs)


class BasicBlock(nnx.Module):
    """Two convolutions and a shortcut around them."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, rngs: nnx.Rngs) -> None:
        self.conv1 = conv(in_channels, out_channels, 3, stride, rngs)
        self.norm1 = norm(out_channels, rngs)
        self.conv2 = conv(out_channels, out_channels, 3, 1, rngs)
        self.norm2 = norm(out_channels, rngs)
        self.activation = nnx.relu
        self.shortcut = nnx.Sequential()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = nnx.Sequential(conv(in_channels, out_channels, 1, stride, rngs), norm(out_channels, rngs))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = self.activation(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y))
        return self.activation(y + self.shortcut(x))


class ResNet(nnx.Module):
    """Images (batch, height, width, 3) to logits (batch, classes)."""

    def __init__(
        self, widths: tuple[int, ...] = (8, 16, 32), blocks: int = 2, classes: int = 10, *, rngs: nnx.Rngs
    ) -> None:
        self.conv = conv(3, widths[0], 7, 2, rngs)
        self.norm = norm(widths[0], rngs)
        self.activation = nnx.relu
        layers = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                layers.append(BasicBlock(channels, width, 2 if stage > 0 and block == 0 else 1, rngs))
                channels = width
        self.blocks = nnx.Sequential(*layers)
        self.head = nnx.Linear(channels, classes, rngs=rngs)

    def pool(self, x: jax.Array) -> jax.Array:
        return nnx.max_pool(x, (3, 3), strides=(2, 2), padding=((1, 1), (1, 1)))  # type: ignore[no-any-return]

    def __call__(self, x: jax.Array) -> jax.Array:
        x = self.pool(self.activation(self.norm(self.conv(x))))
        x = self.blocks(x)
        return self.head(x.mean((1, 2)))
