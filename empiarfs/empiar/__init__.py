"""EMPIAR as its servers show it: pages, bytes."""
