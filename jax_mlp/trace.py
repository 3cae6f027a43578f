"""Former module of `twincheck.record_jax.record`, kept for one release."""

from twincheck.record_jax import record

__all__ = ["record"]
