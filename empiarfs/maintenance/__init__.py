"""Maintenance of the cache folder as a whole: blocks, listings and notes, of all archives."""
