"""The machine and the process: cores, locks, signals, versions, and passwords kept out of sight."""
