"""Builds the MLP of a run as an ONNX model."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, checker, helper, numpy_helper

from mlp_workload.config import LEAKY_RELU_SLOPE, Config
from mlp_workload.errors import UserError
from mlp_workload.interface import activation as activation_name
from mlp_workload.interface import pre_activation
from mlp_workload.weights import Parameters, layer_widths

_LARGEST = 2**31 - 2**20
"""Most bytes of weights; the file is a protocol buffer of less than 2 GiB."""


def onnx_model(config: Config, parameters: Parameters) -> onnx.ModelProto:
    """Returns a model from `images` (batch, pixels), uint8, to `logits` (batch, classes) in the run's dtype.

    It takes batches of any size and normalises the pixels as the run does. Its tensors are named as in a trace.
    Raises `UserError` if the parameters are too large for an ONNX file.
    """
    if (size := sum(array.nbytes for array in parameters.values())) > _LARGEST:
        raise UserError(f"{size / 2**30:.1f} GiB of weights are more than an ONNX file can hold, 2 GiB")
    graph = _Graph(np.dtype(config.dtype))
    for name, array in parameters.items():
        graph.constant(name, array)
    standardised = (config.pixel_mean, config.pixel_std) != (0, 1)
    graph.node("Cast", ["images"], "images.cast", to=graph.type)
    graph.node("Div", ["images.cast", graph.constant("white", 255)], "images.scaled" if standardised else "inputs")
    if standardised:
        graph.node("Sub", ["images.scaled", graph.constant("pixel_mean", config.pixel_mean)], "images.centred")
        graph.node("Div", ["images.centred", graph.constant("pixel_std", config.pixel_std)], "inputs")
    widths = layer_widths(parameters)
    layers = len(widths) - 1
    x = "inputs"
    for index, activation in enumerate(config.activations(layers)):
        weight, bias = f"layers.{index}.weight", f"layers.{index}.bias"
        graph.node("Gemm", [x, weight, bias], pre_activation(index), transB=1)
        x = activation_name(index, layers)
        _activate(graph, activation, pre_activation(index), x)
    images = helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", widths[0]])
    logits = helper.make_tensor_value_info("logits", graph.type, ["batch", widths[-1]])
    model = helper.make_model(
        helper.make_graph(graph.nodes, "mlp", [images], [logits], graph.constants),
        opset_imports=[helper.make_opsetid("", 13)],  # of ONNX 1.8, from 2020, which older readers understand
        ir_version=7,
        producer_name="jax-mlp",
    )
    checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes in order of computation, and constants of one dtype."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self.type = helper.np_dtype_to_tensor_dtype(dtype)
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._dtype = dtype

    def node(self, operator: str, inputs: Sequence[str], output: str, **attributes: Any) -> None:
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    def constant(self, name: str, value: npt.ArrayLike) -> str:
        self.constants.append(numpy_helper.from_array(np.array(value, self._dtype), name))
        return name


def _activate(graph: _Graph, kind: str, x: str, output: str) -> None:
    """Adds an activation. In float64 LeakyReLU is a maximum: onnxruntime lacks it, and its slope is a float32."""
    match kind:
        case "leaky_relu" if graph.type == TensorProto.DOUBLE:
            slope = graph.constant(f"{output}.slope", LEAKY_RELU_SLOPE)
            graph.node("Mul", [x, slope], f"{output}.sloped")
            graph.node("Max", [x, f"{output}.sloped"], output)
        case "leaky_relu":
            graph.node("LeakyRelu", [x], output, alpha=LEAKY_RELU_SLOPE)
        case "relu":
            graph.node("Relu", [x], output)
        case _:
            graph.node("Identity", [x], output)
