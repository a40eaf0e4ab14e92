"""The daemon that serves one mount."""
