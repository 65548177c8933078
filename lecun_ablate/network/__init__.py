"""The 1989 net: how it starts, and the readable reference that every trainer is tested against."""
