"""Recurrent diffusion over the weights of networks: reads zoos, writes zoos. Does not know what a network is for."""
