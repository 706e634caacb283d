"""AlexNet as an ONNX graph, an operator a module, named as the layers are.

Written out here rather than traced: torch's exporter needs two libraries more, and turns local response normalisation
into a dozen operators where ONNX has one.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d

from alexnet_fast.model.alexnet import POOLED, AlexNet, PadRightBottom
from alexnet_fast.model.lrn import LocalResponseNorm, WithinMapNorm

OPSET = 17
IR_VERSION = 8
"""Of the same ONNX release as the opset, 1.12: what runtimes of 2022 and later read."""


class _Graph:
    """Nodes one after another, each with its name; `at` is the value that the next one takes."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.at = "images"

    def add(self, name: str, operator: str, *constants: Tensor | NDArray[Any] | str, **attributes: Any) -> None:
        """One node. `constants`: its further inputs; a text is the name of an earlier value."""
        inputs = [self.at]
        for i, value in enumerate(constants):
            if isinstance(value, str):
                inputs.append(value)
            else:
                array = np.ascontiguousarray(torch.as_tensor(value).detach().cpu().numpy())
                self.constants.append(numpy_helper.from_array(array, f"{name}.{i}"))
                inputs.append(f"{name}.{i}")
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        self.at = name


def onnx_graph(model: AlexNet, crop: int, mean: list[float]) -> onnx.ModelProto:
    """`images` (N, 3, crop, crop), RGB 0-255 -> `logits` (N, classes), any N; `mean` is subtracted inside."""
    graph = _Graph()
    graph.add("centred", "Sub", np.array(mean, np.float32)[:, None, None])
    side = torch.zeros(1, 3, crop, crop)
    with torch.inference_mode():
        for name, module in model.features.named_children():
            _module(graph, f"features.{name}", module, side.shape[2:])
            side = module(side)
    if side.shape[2:] != POOLED:
        # adaptive average pooling, for which ONNX has no operator: along each axis it is a matrix
        rows, columns = (
            adaptive_avg_pool1d(torch.eye(length), out) for length, out in zip(side.shape[2:], POOLED, strict=True)
        )
        graph.add("avgpool.columns", "MatMul", columns)
        graph.add("avgpool.turned", "Transpose", perm=[0, 1, 3, 2])
        graph.add("avgpool.rows", "MatMul", rows)
        graph.add("avgpool", "Transpose", perm=[0, 1, 3, 2])
    graph.add("flat", "Flatten")
    for name, module in model.classifier.named_children():
        _module(graph, f"classifier.{name}", module, ())
    graph.nodes.append(helper.make_node("Identity", [graph.at], ["logits"], "logits"))
    classes = list(model.layers().values())[-1].weight.shape[0]
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, crop, crop])
    logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", classes])
    body = helper.make_graph(graph.nodes, "alexnet", [images], [logits], graph.constants)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(body, opset_imports=[opset], ir_version=IR_VERSION, producer_name="alexnet-fast")


def _module(graph: _Graph, name: str, module: nn.Module, side: tuple[int, ...]) -> None:
    """Adds what computes the module in evaluation mode; `side`: height and width of its input."""
    weights = list(module.parameters())  # the bias after the weight, where there is one
    match module:
        case nn.Dropout():
            pass
        case nn.ReLU():
            graph.add(name, "Relu")
        case nn.Tanh():
            graph.add(name, "Tanh")
        case nn.Linear():
            graph.add(name, "Gemm", *weights, transB=1)
        case nn.Conv2d():
            pads, strides = [int(module.padding[0])] * 4, list(module.stride)
            graph.add(name, "Conv", *weights, pads=pads, strides=strides, group=module.groups)
        case nn.BatchNorm2d():
            statistics = (module.running_mean, module.running_var)
            graph.add(name, "BatchNormalization", *weights, *statistics, epsilon=module.eps)  # type: ignore[arg-type]
        case nn.MaxPool2d():
            graph.add(name, "MaxPool", kernel_shape=[module.kernel_size] * 2, strides=[module.stride] * 2)
        case PadRightBottom():
            bottom, right = (-(length - module.kernel) % module.stride for length in side)
            graph.add(name, "Pad", np.array([0, 0, 0, 0, 0, 0, bottom, right], np.int64))
        case LocalResponseNorm():
            _normalise(graph, name, module)
        case WithinMapNorm():
            before = graph.at
            graph.add(f"{name}.square", "Mul", before)
            graph.add(f"{name}.mean", "AveragePool", kernel_shape=[5, 5], pads=[2] * 4, count_include_pad=1)
            graph.add(f"{name}.scaled", "Mul", np.array([0.001], np.float32))
            graph.add(f"{name}.sum", "Add", np.array([1], np.float32))
            graph.add(f"{name}.power", "Pow", np.array([-0.75], np.float32))
            graph.add(name, "Mul", before)
        case _:
            raise AssertionError(f"no ONNX operator for {type(module).__name__}")


def _normalise(graph: _Graph, name: str, module: LocalResponseNorm) -> None:
    """ONNX's LRN divides alpha by the window's size, as torch does; the towers are normalised each by itself."""
    size = 2 * module.reach + 1
    constants = {"size": size, "alpha": module.scale * size, "beta": 0.75, "bias": module.k}
    if module.towers == 1:
        graph.add(name, "LRN", **constants)
        return
    parts = [f"{name}.tower{i}" for i in range(module.towers)]
    normed = [f"{part}.normalised" for part in parts]
    graph.nodes.append(helper.make_node("Split", [graph.at], parts, f"{name}.split", axis=1))
    for part, output in zip(parts, normed, strict=True):
        graph.at = part
        graph.add(output, "LRN", **constants)
    graph.nodes.append(helper.make_node("Concat", normed, [name], name, axis=1))
    graph.at = name
