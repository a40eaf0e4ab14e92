"""Nodes of one mount that talk to each other, by TLS: one reads what another one has alone."""
