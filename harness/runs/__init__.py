"""Carrying runs out: train, sample, measure, import, export, sweep, reproduce."""
