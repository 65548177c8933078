"""The 1989 net: its initial state, and the readable reference for testing all trainers."""
