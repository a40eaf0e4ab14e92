"""Devices that hold slabs: GPU memory by CUDA's virtual memory management, and its CPU twin."""
