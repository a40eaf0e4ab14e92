"""The pyfuse3 driver: serves a mount through libfuse, without privileges and on older kernels.

The name is that of the driver; the library is the top-level `pyfuse3`, which absolute imports find.
"""
