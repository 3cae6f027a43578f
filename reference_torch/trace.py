"""Former module of `twincheck.record_torch.record`, kept for one release."""

from twincheck.record_torch import record

__all__ = ["record"]
