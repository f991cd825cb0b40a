"""From zoo to zoo, without learning: perturbed, predicted and newly split ones."""
