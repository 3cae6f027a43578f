"""All of them, by name."""

from fuzz import arguments, checkpoint, config, events, idx, image, safetensors, trace
from fuzz.target import Target

TARGETS: dict[str, Target] = {
    "idx": idx.TARGET,
    "image": image.TARGET,
    "safetensors": safetensors.TARGET,
    "checkpoint": checkpoint.TARGET,
    "trace": trace.TARGET,
    "config": config.TARGET,
    "arguments": arguments.TARGET,
    "events": events.TARGET,
}
