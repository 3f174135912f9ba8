"""The cascade of two 3-D CNNs: networks, sub-images, training, inference."""
