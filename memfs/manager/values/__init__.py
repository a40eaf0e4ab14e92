"""Values: how each kind of value is a file that other programs can open."""
