"""The former place of `twincheck.record_jax.record`, for one more release."""

from twincheck.record_jax import record

__all__ = ["record"]
