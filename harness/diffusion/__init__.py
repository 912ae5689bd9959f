"""What noisy, target and denoised mean (formulations), and how images are drawn (samplers, guidance)."""
