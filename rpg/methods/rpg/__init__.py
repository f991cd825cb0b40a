"""RPG: recurrent diffusion on the tokens of whole networks."""
