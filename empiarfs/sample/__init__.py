"""The built-in archive: a small synthetic EMPIAR, and the loopback server that serves it as EBI would."""
