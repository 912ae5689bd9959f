"""Run folders and published numbers, compared, drawn and tabulated. Never imports torch."""
