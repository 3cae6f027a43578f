"""What of a run lies on which device: one program for any number of them, into which XLA puts the exchange.

The devices may be those of several processes, each of which then runs the program.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mlp.device import device_name, find_device
from jax_mlp.model import Params
from jax_mlp.step import TrainState
from mlp_workload.config import Config
from mlp_workload.errors import UserError

_BATCH, _HIDDEN = "batch", "hidden"
CPU_DEVICES = 64
"""Devices that a CPU may count as; each takes memory, 47 MB with MNIST."""


class Layout:
    """A mesh of devices. The examples of a batch are divided along its first axis; along the second, of `split_hidden`
    devices, the units of each hidden layer are.

    All else lies `everywhere`. A program's numbers are those of one device but for rounding, whatever the mesh.
    """

    def __init__(self, devices: Sequence[jax.Device], split_hidden: int = 1) -> None:
        self.mesh = Mesh(np.array(devices).reshape(-1, split_hidden), (_BATCH, _HIDDEN))
        self.everywhere = self._sharding()
        self.chunks = self._sharding(None, _BATCH)
        """Of (chunks, examples, ...): each chunk is divided like a batch."""
        self._largest = jax.jit(jnp.max, out_shardings=self.everywhere)

    def _sharding(self, *axes: str | tuple[str, ...] | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    @property
    def shares(self) -> int:
        """In how many parts a batch is divided."""
        return int(self.mesh.shape[_BATCH])

    def divide(self, batch: jax.Array) -> jax.Array:
        """`batch` (b, ...), divided among the devices. Where they can't share it evenly XLA pads it, and masks what it
        padded in whatever is summed over the batch."""
        divided: jax.Array = jax.lax.with_sharding_constraint(batch, self._sharding(_BATCH))
        return divided

    def max_over_processes(self, number: int) -> int:
        """The largest `number` of all processes, each of which gives one at this point."""
        if jax.process_count() == 1:
            return number
        each = self._sharding((_BATCH, _HIDDEN))
        numbers = jax.make_array_from_callback((self.mesh.size,), each, lambda _: np.array([number], np.int32))
        return int(self._largest(numbers))

    def of_state(self, shapes: TrainState, optimizer: optax.GradientTransformation) -> Any:
        """The shardings of a state of these shapes. A hidden layer is divided by its units, and so are the last layer's
        weights, by their inputs; the optimizer's slots lie where their parameters do."""
        params: Params = jax.tree.map(lambda leaf: leaf, shapes.params)  # variables of its own
        *hidden, last = (layer for _, layer in sorted(params["layers"].items()))
        for layer in hidden:
            layer["weight"].set_value(self._sharding(_HIDDEN))
            layer["bias"].set_value(self._sharding(_HIDDEN))
        last["weight"].set_value(self._sharding(None, _HIDDEN))
        last["bias"].set_value(self.everywhere)
        slots = optax.tree.map_params(
            optimizer,
            lambda _, own: own,
            shapes.optimizer,
            params,
            transform_non_params=lambda _: self.everywhere,
        )
        return TrainState(params, slots)


def place(tree: Any, shardings: Any) -> Any:
    """The arrays of `tree` on devices, as `shardings`, one or a tree of them, say."""

    def placed(array: Any, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        return jax.tree.map(lambda array: placed(array, shardings), tree)
    return jax.tree.map(placed, tree, shardings)


def fetch(tree: Any) -> Any:
    """The arrays of `tree` on the host. Each process has all of them: only a batch is divided among processes."""

    def own(array: jax.Array) -> Any:
        if array.is_fully_addressable or array.is_fully_replicated:
            return array
        whole = np.empty(array.shape, array.dtype)
        for shard in array.addressable_shards:
            whole[shard.index] = shard.data
        return whole

    return jax.device_get(jax.tree.map(own, tree))


def find_layout(config: Config) -> Layout:
    """For the devices of a run. Raises `UserError` where there are fewer, or a hidden layer would be divided among
    processes."""
    devices, each = find_devices(config), config.devices // jax.process_count()
    if each % config.split_hidden:
        raise UserError(f"--split-hidden must divide the {each} devices of a process, got {config.split_hidden}")
    return Layout(devices, config.split_hidden)


def find_devices(config: Config) -> list[jax.Device]:
    """Those of a run, of each process as many. Raises `UserError` as `find_device` does, and where there are fewer."""
    if not jax.distributed.is_initialized():  # else each process has asked for its own
        ask_for_cpu_devices(config.devices)
    device = find_device(config)
    if config.devices == 1:
        return [device]
    seen, each = jax.devices(device.platform), config.devices // jax.process_count()
    devices: list[jax.Device] = []
    for process in range(jax.process_count()):
        devices += [one for one in seen if one.process_index == process][:each]
    if len(devices) < config.devices:
        raise UserError(f"--devices {config.devices}: JAX sees {len(seen)} ({device_name(device)})")
    return devices


def ask_for_cpu_devices(count: int) -> None:
    """Makes a CPU count as so many devices, if JAX has not started yet and nothing else has set their number.

    Raises `UserError` if they are more than `CPU_DEVICES`, or the CPU's cores if it has more.
    """
    if count > (most := max(CPU_DEVICES, os.cpu_count() or 1)):
        raise UserError(f"--devices must be at most {most} in a process, got {count}")
    said = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and jax.config.values["jax_num_cpu_devices"] < 1 and not said:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
