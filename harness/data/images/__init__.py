"""Images for training: folders, CIFAR-10, synthetic ones."""
