"""What a pre-trained network has learned of images, measured without training anything further."""
