"""Codecs: how one frame of a content is compressed, and how users add their own."""
