"""fsck: finds what should not be in a state directory."""
