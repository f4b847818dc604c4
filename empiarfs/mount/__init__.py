"""The archive as a FUSE file system."""
