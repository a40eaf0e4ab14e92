"""The subcommands of `memfs`, a module each."""
