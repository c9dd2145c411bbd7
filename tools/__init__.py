"""Scripts over the rooms."""
