"""Conclusions from results: comparisons, verdicts and summaries."""
