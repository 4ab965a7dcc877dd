"""Any vision-language model of transformers: zero-shot, tuned, with facial priors."""
