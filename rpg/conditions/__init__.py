"""What generators are told of the networks they are to make, as tensors: an encoder for each kind of condition."""
