"""The generator's networks and the diffusion process."""
