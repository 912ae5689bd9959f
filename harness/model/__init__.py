"""The networks' parts, formulations, samplers, guidance and the method contract."""
