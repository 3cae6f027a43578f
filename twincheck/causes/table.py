"""The known differences between PyTorch and JAX: what differs, how the JAX side is fixed, where it is documented."""

from collections.abc import Mapping, Sequence

from twincheck.causes import activations, attention, dropout, images, layout, masks, norms, precision, rotary, sequences
from twincheck.causes.cause import Cause

CAUSES: Sequence[Cause] = (
    *activations.CAUSES,
    *norms.CAUSES,
    *images.CAUSES,
    *attention.CAUSES,
    *masks.CAUSES,
    *rotary.CAUSES,
    *dropout.CAUSES,
    *sequences.CAUSES,
    *layout.CAUSES,
    *precision.CAUSES,
)
"""In the order in which they are tried: specific before general."""

BY_NAME: Mapping[str, Cause] = {cause.name: cause for cause in CAUSES}
HYPOTHESES: Sequence[Cause] = tuple(cause for cause in CAUSES if cause.patch is not None)
"""The causes that a patch can undo."""
