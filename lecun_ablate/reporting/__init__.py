"""What is made of results: figures and the page."""
