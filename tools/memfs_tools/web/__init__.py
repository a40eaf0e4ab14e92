"""`memfs web`: the live page of a mount, in a process of its own."""
