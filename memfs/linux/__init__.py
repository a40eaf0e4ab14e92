"""System calls that Python lacks, and what the kernel tells about this machine."""
