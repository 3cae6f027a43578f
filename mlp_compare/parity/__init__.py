"""Whether both frameworks compute the same, step by step and tensor by tensor."""
