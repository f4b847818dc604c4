"""The archive as a file system of the kernel's."""
