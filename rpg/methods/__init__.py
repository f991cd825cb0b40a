"""Methods: what learns the networks of a zoo and draws new ones. One file for each, with its `Config`."""
