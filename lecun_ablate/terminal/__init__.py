"""Terminal output. Nothing else in the package prints."""
