"""G.pt: a diffusion transformer that takes a network and a metric to another network (Peebles et al. 2022)."""
