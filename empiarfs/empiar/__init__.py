"""EMPIAR's servers: index pages and file contents over HTTP, sizes over FTP."""
