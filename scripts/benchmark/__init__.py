"""What scripts/bench is made of: the jobs, what serves them, the programs that mount, and the figures."""
