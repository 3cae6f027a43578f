"""Both frameworks held together, step by step and tensor by tensor."""
