"""Hyper-representations: a contrastive transformer autoencoder of whole networks, sampled by a kernel density."""
