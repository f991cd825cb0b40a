"""RPG with a continuous latent in place of the checkpoint's number."""
