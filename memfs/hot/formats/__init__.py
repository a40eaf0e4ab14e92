"""Headers of tensor files: what each says of its tensors, and whether that can be true."""
