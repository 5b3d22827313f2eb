"""Networks: encoders, decoders, generators, discriminators, feature networks."""
