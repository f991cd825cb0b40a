"""p-diff: an autoencoder and a diffusion of its codes (Wang et al. 2024)."""
