"""What a person sees in the terminal. Nothing else in the package prints."""
