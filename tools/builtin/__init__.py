"""How the built-in model is made: pictures, styles, prompts, the three networks and their training."""
