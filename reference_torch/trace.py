"""The former place of `twincheck.record_torch.record`, for one more release."""

from twincheck.record_torch import record

__all__ = ["record"]
