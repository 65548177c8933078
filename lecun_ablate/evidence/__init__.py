"""From results to what can be concluded: comparisons, verdicts and summaries."""
