"""Whether an image is one of those that a model was trained on: the fingerprint of inputs, and what departs from it."""
