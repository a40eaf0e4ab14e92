"""Questions and orders to a running daemon, over a unix socket in the state directory."""
