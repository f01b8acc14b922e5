"""A federation of real processes on this machine, killed and restarted, and what its files say afterwards."""
