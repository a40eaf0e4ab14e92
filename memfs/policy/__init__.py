"""Policy: which files go where, as pure functions and small deterministic state machines.

Nothing here does I/O, reads a clock or draws a random number: the mover drives it with what is
there, and the simulator drives the same code with traces.
"""
