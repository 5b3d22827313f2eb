"""Training algorithms, one file each: networks, losses, update steps and optimizers."""
