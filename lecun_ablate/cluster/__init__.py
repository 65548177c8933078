"""Training on several machines. `engine` says what a cluster can do; `ray_engine` does it with Ray."""
