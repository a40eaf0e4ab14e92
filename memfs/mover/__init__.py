"""The mover: decides which file belongs into which tier, and has the moves made."""
