"""What is kept between runs: blocks and the tree."""
