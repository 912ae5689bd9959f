"""Min-SNR for dit-harness. Nothing is imported here: `harness recipes list` reads the recipes without torch."""
