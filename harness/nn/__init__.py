"""Networks every method is built from: one DiT block, token masking, the asymmetric encoder-decoder, the projection head."""
