"""Pre-training of the pocket backbones: small models that follow written instructions on invented notes."""
