"""Metadata that are in a PostgreSQL database as well; needs the extra `postgresql`."""
