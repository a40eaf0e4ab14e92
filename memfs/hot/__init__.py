"""The hot tier: tensors of files, resident on a device and shared between processes."""
