"""A reference model of the archive, the server that it describes, and the processes that use it."""
