"""Shards a run over a device mesh; XLA inserts the collectives.

The devices may belong to several processes, each of which runs the same program.
"""

import contextlib
import os
from collections.abc import Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np
import numpy.typing as npt
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jax_mlp.device import device_name, find_device
from jax_mlp.model import Params
from jax_mlp.step import TrainState
from mlp_workload.config import Config
from mlp_workload.errors import UserError

T = TypeVar("T")

_BATCH, _HIDDEN = "batch", "hidden"
CPU_DEVICES = 64
"""Most devices that a CPU may count as. Each takes memory, 47 MB with MNIST."""


class DeviceMesh:
    """A mesh of devices with the axes batch and hidden, and the shardings of a run's arrays.

    The examples of a batch are sharded along the first axis. The units of each hidden layer are sharded along the
    second, which has `split_hidden` devices. All other arrays are replicated. The results are those of one device,
    apart from rounding.
    """

    def __init__(self, devices: Sequence[jax.Device], split_hidden: int = 1) -> None:
        self.mesh = Mesh(np.array(devices).reshape(-1, split_hidden), (_BATCH, _HIDDEN))
        self.replicated = self._sharding()
        self.chunked = self._sharding(None, _BATCH)
        """Sharding of an array (chunks, examples, ...), each chunk of which is sharded like a batch."""
        self._max = jax.jit(jnp.max, out_shardings=self.replicated)

    def _sharding(self, *axes: str | tuple[str, ...] | None) -> NamedSharding:
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def shard_batch(self, batch: jax.Array) -> jax.Array:
        """Returns `batch` (b, ...) sharded along its first axis.

        If b is not divisible by the number of shards, XLA pads the batch, and masks the padding in sums over it.
        """
        sharded: jax.Array = jax.lax.with_sharding_constraint(batch, self._sharding(_BATCH))
        return sharded

    def max_over_processes(self, number: int) -> int:
        """Returns the largest `number` of all processes, which must all call this at the same point."""
        if jax.process_count() == 1:
            return number
        one_each = self._sharding((_BATCH, _HIDDEN))
        numbers = jax.make_array_from_callback((self.mesh.size,), one_each, lambda _: np.array([number], np.int32))
        return int(self._max(numbers))

    def state_shardings(self, shapes: TrainState, optimizer: optax.GradientTransformation) -> TrainState:
        """Returns the shardings of a state of these shapes.

        Hidden layers are sharded by their units, and the last layer's weights by their inputs. The optimizer's arrays
        have the shardings of their parameters.
        """
        params: Params = jax.tree.map(lambda leaf: leaf, shapes.params)  # new variables
        *hidden, last = (layer for _, layer in sorted(params["layers"].items()))
        for layer in hidden:
            layer["weight"].set_value(self._sharding(_HIDDEN))
            layer["bias"].set_value(self._sharding(_HIDDEN))
        last["weight"].set_value(self._sharding(None, _HIDDEN))
        last["bias"].set_value(self.replicated)
        slots = optax.tree.map_params(
            optimizer,
            lambda _, own: own,
            shapes.optimizer,
            params,
            transform_non_params=lambda _: self.replicated,
        )
        return TrainState(params, slots)


def device_put(tree: T, shardings: object) -> T:
    """Returns the arrays of `tree` on the devices. `shardings` is one sharding, or a tree of them.

    Unlike `jax.device_put` it takes shardings over devices of several processes, each of which has all of `tree`.
    """

    def put(array: npt.ArrayLike, sharding: NamedSharding) -> jax.Array:
        host = np.asarray(array)
        return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])

    if isinstance(shardings, NamedSharding):
        placed: T = jax.tree.map(lambda array: put(array, shardings), tree)
    else:
        placed = jax.tree.map(put, tree, shardings)
    return placed


def to_host(tree: T) -> T:
    """Returns the arrays of `tree` as NumPy's.

    Every process has all of them, if need be in shards: only batches are sharded over processes.
    """

    def local(array: jax.Array) -> jax.Array | npt.NDArray[np.generic]:
        if array.is_fully_addressable or array.is_fully_replicated:
            return array
        whole = np.empty(array.shape, array.dtype)
        for shard in array.addressable_shards:
            whole[shard.index] = shard.data
        return whole

    host: T = jax.device_get(jax.tree.map(local, tree))
    return host


def find_mesh(config: Config) -> DeviceMesh:
    """Returns the mesh of a run's devices.

    Raises `UserError` if there are too few devices, or if a hidden layer would be sharded over processes.
    """
    devices, per_process = find_devices(config), config.devices // jax.process_count()
    if per_process % config.split_hidden:
        raise UserError(f"--split-hidden must divide the {per_process} devices of a process, got {config.split_hidden}")
    return DeviceMesh(devices, config.split_hidden)


def find_devices(config: Config) -> list[jax.Device]:
    """Returns the devices of a run, equally many of each process.

    Raises `UserError` as `find_device` does, and if there are too few devices.
    """
    if not jax.distributed.is_initialized():  # else each process has asked for its own
        ask_for_cpu_devices(config.devices)
    device = find_device(config)
    if config.devices == 1:
        return [device]
    seen, per_process = jax.devices(device.platform), config.devices // jax.process_count()
    devices: list[jax.Device] = []
    for process in range(jax.process_count()):
        devices += [local for local in seen if local.process_index == process][:per_process]
    if len(devices) < config.devices:
        raise UserError(f"--devices {config.devices}: JAX sees {len(seen)} ({device_name(device)})")
    return devices


def ask_for_cpu_devices(count: int) -> None:
    """Makes a CPU count as `count` devices, if JAX has not started yet and nothing else has set their number.

    Raises `UserError` if `count` exceeds both `CPU_DEVICES` and the number of cores.
    """
    if count > (most := max(CPU_DEVICES, os.cpu_count() or 1)):
        raise UserError(f"--devices must be at most {most} in a process, got {count}")
    is_set = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if count > 1 and jax.config.values["jax_num_cpu_devices"] < 1 and not is_set:
        with contextlib.suppress(RuntimeError):
            jax.config.update("jax_num_cpu_devices", count)
