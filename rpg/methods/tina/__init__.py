"""Tina: networks denoised jointly with a token for each class."""
