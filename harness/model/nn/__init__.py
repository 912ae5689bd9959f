"""What every method is built from: one DiT block, masking, the asymmetric encoder-decoder, the projection head."""
