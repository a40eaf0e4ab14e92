"""The kernel driver: speaks the FUSE protocol over `/dev/fuse`, with passthrough."""
