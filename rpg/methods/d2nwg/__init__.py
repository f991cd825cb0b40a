"""D2NWG: latent diffusion of networks, told of the data set that they are for (Soro et al. 2024)."""
