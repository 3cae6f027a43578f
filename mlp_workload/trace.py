"""The former place of `twincheck.Trace` and `twincheck.rename`, for one more release."""

from twincheck.trace import Trace, rename

__all__ = ["Trace", "rename"]
