"""The machine and the process: cores, locks, signals, versions, and masked passwords."""
