"""Former module of `twincheck.Trace` and `twincheck.rename`, kept for one release."""

from twincheck.trace import Trace, rename

__all__ = ["Trace", "rename"]
