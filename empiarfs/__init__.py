"""EMPIAR, the public archive of raw cryo-EM images, as a read-only file system."""
