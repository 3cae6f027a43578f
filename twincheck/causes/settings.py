"""Settings of paired modules that must mean the same, each in the terms of its framework."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Settings = Mapping[str, Any]
"""The plain attributes of a module: numbers, strings, truth values, None, and tuples of these."""


class _Skip:
    """Stands for a value that cannot be compared."""


SKIP = _Skip()


def compact(value: Any, settings: Settings) -> Any:
    """Returns (3, 3) as 3, so that either form can be compared with the other."""
    if isinstance(value, (list, tuple)):
        items = [compact(item, settings) for item in value]
        return items[0] if items and all(item == items[0] for item in items) else tuple(items)
    return value


def one_if_none(value: Any, settings: Settings) -> Any:
    return 1 if value is None else compact(value, settings)


Convert = Callable[[Any, Settings], Any]


@dataclass(frozen=True)
class Setting:
    """One setting in both frameworks.

    Attributes:
        cause: name of the cause if it differs.
        torch_kinds: names of torch's classes.
        jax_kinds: names of the JAX side's classes.
        torch_name: the attribute in torch.
        jax_name: the attribute in JAX.
        convert: returns torch's value in the terms of JAX, or SKIP, given the value and all of torch's settings.
        read: returns JAX's value in a form that can be compared, given the value and all of JAX's settings.
        missing: JAX's value if it has no such attribute; by default there is nothing to compare.
        derived: returns other attributes that JAX's value decides, given torch's value and all of JAX's settings.
    """

    cause: str
    torch_kinds: Sequence[str]
    jax_kinds: Sequence[str]
    torch_name: str
    jax_name: str
    convert: Convert = compact
    read: Convert = compact
    missing: Any = SKIP
    derived: Callable[[Any, Settings], Settings] = lambda value, settings: {}


@dataclass(frozen=True)
class SettingMismatch:
    """A setting that differs. The expected value is torch's in the terms of JAX; the JAX layer may lack the option."""

    cause: str
    torch_name: str
    torch_value: Any
    jax_name: str
    jax_value: Any
    expected: Any
    has_option: bool
    derived: Settings = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.has_option:
            return f"torch has {self.torch_name}={self.torch_value}, for which the JAX layer has no option"
        needed = f"torch has {self.torch_name}={self.torch_value}, so JAX needs {self.jax_name}={self.expected}"
        return f"{needed}; it has {self.jax_value}"


def compare_settings(torch_kind: str, torch: Settings, jax_kind: str, jax: Settings) -> list[SettingMismatch]:
    """Returns what differs between the settings of two paired modules.

    Padding that differs is a fault only if the outputs do, too: a model may pad its input itself.
    """
    found: list[SettingMismatch] = []
    if not jax:  # nothing is known
        return found
    for setting in SETTINGS:
        if (
            torch_kind not in setting.torch_kinds
            or jax_kind not in setting.jax_kinds
            or setting.torch_name not in torch
        ):
            continue
        expected = setting.convert(torch[setting.torch_name], torch)
        value = jax.get(setting.jax_name, setting.missing)
        actual = value if value is SKIP else setting.read(value, jax)
        if expected is SKIP or actual is SKIP or _same(expected, actual):
            continue
        theirs, has_option = torch[setting.torch_name], setting.jax_name in jax
        derived = setting.derived(expected, jax)
        found.append(
            SettingMismatch(
                setting.cause, setting.torch_name, theirs, setting.jax_name, value, expected, has_option, derived
            )
        )
    return found


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(_same(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, (int, float)) and isinstance(b, (int, float)) and not isinstance(a, bool):
        return math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-15)
    return bool(a == b)


def _spatial(value: Any, count: int) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value] * count


def _extents(kernel: Any, dilation: Any) -> list[int]:
    """Returns how far each axis of a dilated kernel reaches."""
    sizes = _spatial(kernel, 1)
    return [
        d * (k - 1) + 1 for k, d in zip(sizes, _spatial(1 if dilation is None else dilation, len(sizes)), strict=True)
    ]


def _halves(extents: Sequence[int]) -> tuple[tuple[int, int], ...]:
    return tuple(((extent - 1) // 2, extent - 1 - (extent - 1) // 2) for extent in extents)


def _torch_padding(value: Any, settings: Settings) -> Any:
    if "kernel_size" not in settings:  # another class of the same name
        return SKIP
    extents = _extents(settings["kernel_size"], settings.get("dilation"))
    if value == "valid":
        value = 0
    pads = _halves(extents) if value == "same" else tuple((p, p) for p in _spatial(value, len(extents)))
    mode = settings.get("padding_mode", "zeros")
    if mode == "zeros":
        return pads
    return mode.upper() if pads == _halves(extents) else (mode, pads)


def _jax_padding(value: Any, settings: Settings) -> Any:
    if "kernel_size" not in settings:
        return SKIP
    extents = _extents(settings["kernel_size"], settings.get("kernel_dilation"))
    strides = _spatial(1 if settings.get("strides") is None else settings["strides"], len(extents))
    if not isinstance(value, str):
        return tuple(tuple(_spatial(p, 2)) for p in _spatial(value, len(extents)))
    if value == "VALID":
        return tuple((0, 0) for _ in extents)
    if value == "CAUSAL":
        return tuple((extent - 1, 0) for extent in extents)
    if any(s != 1 for s in strides):
        return SKIP  # it depends on the size of the input
    return {"SAME": _halves(extents), "CIRCULAR": value, "REFLECT": value}.get(value, SKIP)


def _torch_transposed_padding(value: Any, settings: Settings) -> Any:
    if "kernel_size" not in settings:
        return SKIP
    extents = _extents(settings["kernel_size"], settings.get("dilation"))
    added = _spatial(settings.get("output_padding", 0), len(extents))
    return tuple(
        (extent - 1 - p, extent - 1 - p + extra)
        for extent, p, extra in zip(extents, _spatial(value, len(extents)), added, strict=True)
    )


def _jax_transposed_padding(value: Any, settings: Settings) -> Any:
    if "kernel_size" not in settings:
        return SKIP
    extents = _extents(settings["kernel_size"], settings.get("kernel_dilation"))
    strides = _spatial(1 if settings.get("strides") is None else settings["strides"], len(extents))
    if not isinstance(value, str):
        return tuple(tuple(_spatial(p, 2)) for p in _spatial(value, len(extents)))
    pads = []
    for extent, stride in zip(extents, strides, strict=True):
        if value == "SAME":
            total = extent + stride - 2
            low = extent - 1 if stride > extent - 1 else math.ceil(total / 2)
        elif value == "VALID":
            total, low = extent + stride - 2 + max(extent - stride, 0), extent - 1
        else:
            return SKIP
        pads.append((low, total - low))
    return tuple(pads)


def _normalized_axes(value: Any, settings: Settings) -> Any:
    axes = tuple(range(-len(_spatial(value, 1)), 0))
    return axes if len(axes) > 1 else -1


LAYER_NORMS = ("LayerNorm", "RMSNorm", "T5LayerNorm", "LlamaRMSNorm")
BATCH_NORMS = (
    "BatchNorm1d",
    "BatchNorm2d",
    "BatchNorm3d",
    "SyncBatchNorm",
    "InstanceNorm1d",
    "InstanceNorm2d",
    "InstanceNorm3d",
)
JAX_NORMS = ("LayerNorm", "RMSNorm", "BatchNorm", "InstanceNorm", "GroupNorm")
CONVS = ("Conv1d", "Conv2d", "Conv3d")
CONV_TRANSPOSES = ("ConvTranspose1d", "ConvTranspose2d", "ConvTranspose3d")


def _skip_none(value: Any, settings: Settings) -> Any:
    return SKIP if value is None else value


def _group_size(groups: Any, settings: Settings) -> Settings:
    """Returns the size of a group, which nnx.GroupNorm keeps beside their number."""
    size = settings.get("group_size")
    return {} if size is None else {"group_size": size * settings["num_groups"] // groups}


def _evaluates(training: Any, settings: Settings) -> Any:
    """Returns Flax's use_running_average of a norm of torch in evaluation mode."""
    return SKIP if training else True


def _trains(training: Any, settings: Settings) -> Any:
    """Returns Flax's use_running_average of a norm of torch in training mode."""
    return False if training else SKIP


def _hidden_bias(value: Any, settings: Settings) -> Any:
    """Returns whether a GRU cell has torch's second bias; Equinox's, with `use_bias`, adds it up where torch does."""
    return SKIP if "use_bias" in settings else value


def _kept(value: Any, settings: Settings) -> Any:
    """Returns the part of a running statistic that a step of torch keeps."""
    return SKIP if value is None else 1 - value


def _modules() -> list[Setting]:
    norms = (*LAYER_NORMS, *BATCH_NORMS, "GroupNorm")
    table = [
        Setting("norm-epsilon", norms, JAX_NORMS, torch_name, jax_name, _skip_none)
        for torch_name in ("eps", "variance_epsilon")
        for jax_name in ("epsilon", "eps")
    ]
    table += [
        Setting("batch-norm-momentum", BATCH_NORMS, ("BatchNorm",), "momentum", "momentum", _kept),
        Setting("batch-norm-momentum", BATCH_NORMS, ("BatchNorm",), "momentum", "decay_rate", _kept),
        *(
            Setting(cause, BATCH_NORMS, ("BatchNorm",), "training", "use_running_average", convert, _skip_none)
            for cause, convert in (("batch-norm-mode", _evaluates), ("batch-norm-training", _trains))
        ),
        Setting("norm-axes", ("LayerNorm",), ("LayerNorm",), "normalized_shape", "reduction_axes", _normalized_axes),
        Setting("norm-groups", ("GroupNorm",), ("GroupNorm",), "num_groups", "num_groups", derived=_group_size),
        Setting("norm-groups", ("GroupNorm",), ("GroupNorm",), "num_groups", "groups"),
        Setting("dropout-rate", ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), ("Dropout",), "p", "rate"),
        Setting("dropout-rate", ("Dropout", "Dropout1d", "Dropout2d", "Dropout3d"), ("Dropout",), "p", "p"),
        Setting("dropout-rate", ("MultiheadAttention",), ("MultiHeadAttention",), "dropout", "dropout_rate"),
        Setting("attention-heads", ("MultiheadAttention",), ("MultiHeadAttention",), "num_heads", "num_heads"),
        Setting("padding-index", ("Embedding",), ("Embed", "Embedding"), "padding_idx", "padding_idx", missing=None),
        Setting("embedding-max-norm", ("Embedding",), ("Embed", "Embedding"), "max_norm", "max_norm", missing=None),
        Setting("leaky-slope", ("LeakyReLU",), ("LeakyReLU",), "negative_slope", "negative_slope"),
        Setting(
            "gru-two-biases", ("GRU", "GRUCell"), ("GRUCell",), "bias", "hidden_bias", read=_hidden_bias, missing=False
        ),
    ]
    for torch_kinds, jax_kinds in ((CONVS, ("Conv",)), (CONV_TRANSPOSES, ("ConvTranspose",))):
        table += [
            Setting("conv-strides", torch_kinds, jax_kinds, "stride", "strides", read=one_if_none),
            Setting("conv-dilation", torch_kinds, jax_kinds, "dilation", "kernel_dilation", read=one_if_none),
        ]
    table += [
        Setting("conv-padding", CONVS, ("Conv",), "padding", "padding", _torch_padding, _jax_padding),
        Setting(
            "conv-transpose-padding",
            CONV_TRANSPOSES,
            ("ConvTranspose",),
            "padding",
            "padding",
            _torch_transposed_padding,
            _jax_transposed_padding,
        ),
    ]
    table += [
        Setting("conv-padding", (kind,), (kind,), "padding", "padding", _torch_padding, _jax_padding) for kind in CONVS
    ]
    same = (*CONVS, *CONV_TRANSPOSES)  # Equinox names its classes as torch does
    table += [
        Setting(f"conv-{name}", (kind,), (kind,), torch_name, torch_name)
        for kind in same
        for name, torch_name in (("strides", "stride"), ("dilation", "dilation"))
    ]
    return table


SETTINGS: Sequence[Setting] = _modules()
