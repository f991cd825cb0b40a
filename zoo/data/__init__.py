"""Data sets: images, photographs, segmentations, objects, instructions; and how batches are read."""
