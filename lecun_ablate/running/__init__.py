"""Training what a plan lacks, and running single runs again."""
