"""SANE: a sequential autoencoder of parts of networks, sampled by a kernel density over their codes."""
