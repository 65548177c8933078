"""Training on several machines. `engine` says what a cluster can do, `ray_engine` has Ray do it."""
