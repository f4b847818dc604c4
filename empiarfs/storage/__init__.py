"""Storage between runs: blocks and the index of the tree."""
