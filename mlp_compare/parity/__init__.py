"""Parity check: both frameworks compared step by step and tensor by tensor."""
