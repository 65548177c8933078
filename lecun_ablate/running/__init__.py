"""Training the missing runs of a plan, and repeating single runs."""
