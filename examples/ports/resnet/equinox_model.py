"""The port to Equinox, for one image: `vmap` it over the batch, as `pair.py` does."""

from collections.abc import Callable

import equinox as eqx
import jax


def norm(channels: int) -> eqx.nn.BatchNorm:
    """Returns torch's BatchNorm in evaluation.

    In training, Equinox keeps the biased variance and corrects running statistics for their start at 0.
    """
    return eqx.nn.BatchNorm(channels, axis_name="batch", mode="batch", momentum=0.9)


class Shortcut(eqx.Module):
    """A convolution where the shape changes."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm

    def __init__(self, in_channels: int, out_channels: int, stride: int, key: jax.Array) -> None:
        self.conv = eqx.nn.Conv2d(in_channels, out_channels, 1, stride, use_bias=False, key=key)
        self.norm = norm(out_channels)

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        return self.norm(self.conv(x), state)  # type: ignore[no-any-return]


class BasicBlock(eqx.Module):
    """Two convolutions and a shortcut around them."""

    conv1: eqx.nn.Conv2d
    norm1: eqx.nn.BatchNorm
    conv2: eqx.nn.Conv2d
    norm2: eqx.nn.BatchNorm
    shortcut: Shortcut | None
    activation: Callable[[jax.Array], jax.Array]

    def __init__(self, in_channels: int, out_channels: int, stride: int, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.conv1 = eqx.nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, use_bias=False, key=keys[0])
        self.norm1 = norm(out_channels)
        self.conv2 = eqx.nn.Conv2d(out_channels, out_channels, 3, padding=1, use_bias=False, key=keys[1])
        self.norm2 = norm(out_channels)
        changes = stride != 1 or in_channels != out_channels
        self.shortcut = Shortcut(in_channels, out_channels, stride, keys[2]) if changes else None
        self.activation = jax.nn.relu

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        y, state = self.norm1(self.conv1(x), state)
        y, state = self.norm2(self.conv2(self.activation(y)), state)
        if self.shortcut is not None:
            x, state = self.shortcut(x, state)
        return self.activation(y + x), state


class ResNet(eqx.Module):
    """An image (3, height, width) to logits (classes,)."""

    conv: eqx.nn.Conv2d
    norm: eqx.nn.BatchNorm
    pool: eqx.nn.MaxPool2d
    blocks: list[BasicBlock]
    head: eqx.nn.Linear
    activation: Callable[[jax.Array], jax.Array]

    def __init__(
        self, widths: tuple[int, ...] = (8, 16, 32), blocks: int = 2, classes: int = 10, *, key: jax.Array
    ) -> None:
        keys = iter(jax.random.split(key, len(widths) * blocks + 2))
        self.conv = eqx.nn.Conv2d(3, widths[0], 7, stride=2, padding=3, use_bias=False, key=next(keys))
        self.norm = norm(widths[0])
        self.pool = eqx.nn.MaxPool2d(3, stride=2, padding=1)
        self.blocks = []
        channels = widths[0]
        for stage, width in enumerate(widths):
            for block in range(blocks):
                self.blocks.append(BasicBlock(channels, width, 2 if stage > 0 and block == 0 else 1, next(keys)))
                channels = width
        self.head = eqx.nn.Linear(channels, classes, key=next(keys))
        self.activation = jax.nn.relu

    def __call__(self, x: jax.Array, state: eqx.nn.State) -> tuple[jax.Array, eqx.nn.State]:
        x, state = self.norm(self.conv(x), state)
        x = self.pool(self.activation(x))
        for block in self.blocks:
            x, state = block(x, state)
        return self.head(x.mean((1, 2))), state
